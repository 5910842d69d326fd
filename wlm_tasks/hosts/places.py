"""Where a file is on another host, and the bash that gets there.

A prologue defines how: `open_source` opens the file on descriptor 3, `to_target` goes to its
directory and sets `name` and `part`; `enter_source` and `enter_target` go to it if it is a
directory. Its arguments are the first four of a script.
"""

from __future__ import annotations

import hashlib
import posixpath
from dataclasses import dataclass
from typing import Final

from wlm_tasks.errors import StorageRefusedError
from wlm_tasks.hosts.scripts import PREAMBLE
from wlm_tasks.model.paths import part_name

_COMMON: Final = r"""
status() { stat -Lc '%s %a %d %i %.9Y %.9Z' -- "$1"; }
sha256() {  # of the standard input
  local sum
  if hash openssl 2> /dev/null; then
    sum=$(openssl dgst -sha256 -r 2> /dev/null)
  else
    sum=$(sha256sum)
  fi
  [[ ${sum%% *} =~ ^[0-9a-f]{64}$ ]] || { echo "no SHA-256: $sum" >&2; exit 1; }
  printf '%s\n' "${sum%% *}"
}
busy() { echo "$path: is being written by another transfer" >&2; exit 73; }
hold() {  # WHAT: locks it, which is open as descriptor 9
  local fd pid
  flock -n 9 && return
  # of a broken connection nobody may have told the host yet
  if (($(date +%s) - $(stat -c %Y -- "$1") > 1800)); then
    for fd in /proc/[0-9]*/fd/9; do
      pid=${fd#/proc/} pid=${pid%%/*}
      [ "$pid" = $$ ] || { [ "$fd" -ef "$1" ] && kill -KILL "$pid"; }
    done 2> /dev/null
  fi
  flock -w 2 9 || busy  # a killed one's script may need a moment
}
open_present() { to_target; open_own "./$name"; }
open_part() { to_target; open_own "$part"; }
open_own() {  # FILE: not through a link
  [ ! -L "$1" ] || { echo "$path: is a symbolic link" >&2; exit 67; }
  open_regular "$1"
}
open_regular() {  # FILE: without waiting for the other end of a FIFO
  if [ ! -e "$1" ]; then
    cat -- "$1" > /dev/null  # says why
    echo "$path: No such file or directory" >&2
    exit 68
  fi
  [ -f "$1" ] || { echo "$path: is no regular file" >&2; exit 67; }
  exec 3< "$1" || exit
  [ -f /proc/self/fd/3 ] || { echo "$path: is no regular file" >&2; exit 67; }
}
"""
#: arguments: WORKDIR SCRATCH PATH KEY; part files are below ``.wlm/staging``, by key
INSIDE: Final = (
    PREAMBLE
    + _COMMON
    + r"""
workdir=$1 scratch=$2 path=$1/$3 below=$3 key=$4
shift 4
need_inside "$workdir" "$scratch"
cd -P -- "$workdir" || exit 1
open_source() {
  local root=$PWD file
  [ -e "$below" ] && ! file=$(realpath -e -- "./$below") && exit 1
  if [ -n "$file" ] && [[ $file != "${root%/}"/?* ]]; then
    echo "$path: a symbolic link leads out of the experiment's directory" >&2
    exit 67
  fi
  open_regular "./$below"
  # the link may be another by now
  if [[ $(readlink /proc/self/fd/3) != "${root%/}"/?* ]]; then
    echo "$path: a symbolic link leads out of the experiment's directory" >&2
    exit 67
  fi
}
to_target() {
  local rest=$below dir
  [ ! -L .wlm ] && [ ! -L .wlm/staging ] || { echo ".wlm: is a symbolic link" >&2; exit 67; }
  mkdir -p .wlm/staging || exit 1
  part=$PWD/.wlm/staging/$key
  while [[ $rest == */* ]]; do
    dir=${rest%%/*} rest=${rest#*/}
    if [ -L "./$dir" ]; then
      echo "$path: $dir is a symbolic link, expected a directory" >&2
      exit 67
    fi
    [ -d "./$dir" ] || mkdir -- "./$dir" || [ -d "./$dir" ] || exit 1
    cd -P -- "./$dir" || exit 1
  done
  name=$rest
}
enter_source() {
  local root=$PWD
  [ -z "$below" ] || cd -P -- "./$below" || exit 1
  if [[ $PWD != "$root" && $PWD != "${root%/}"/* ]]; then
    echo "$path: a symbolic link leads out of the experiment's directory" >&2
    exit 67
  fi
}
enter_target() {
  [ -n "$below" ] || return 0
  below+=/. to_target
}
grant() { chmod "$1" -- "$2"; }
permissions=-p
"""
)
#: arguments: DIRECTORY NAME PATH PART
ANYWHERE: Final = (
    PREAMBLE.replace("umask 077\n", "")
    + _COMMON
    + r"""
directory=$1 name=$2 path=$3 key=$4
shift 4
open_source() { open_regular "$path"; }
to_target() {
  mkdir -p -- "$directory" && cd -P -- "$directory" || exit 1
  part=./$key
}
enter_source() { cd -P -- "$path" || exit 1; }
enter_target() { mkdir -p -- "$path" && cd -P -- "$path" || exit 1; }
permissions=--no-same-permissions
grant() { chmod "$(printf %o $((8#$1 & ~8#$(umask))))" -- "$2"; }
"""
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file is on a host: how scripts get there, and with which arguments."""

    name: str  #: for messages
    prologue: str
    arguments: tuple[str, str, str, str]


def inside(workdir: str, scratch: str, path: str) -> Place:
    """Return the place of `path` in an experiment's directory below `scratch`.

    An empty path is the directory itself. A target's way never leads through a symbolic link; a
    source's links stay below `workdir`. Raises `StorageRefusedError` unless the text of the path
    stays where it starts.
    """
    if "\0" in path or (path and any(part in {"", ".", ".."} for part in path.split("/"))):
        raise StorageRefusedError(
            f"path: got {path!r}, expected a relative path without '..', '.', '//' or NUL"
        )
    key = hashlib.sha256(path.encode(errors="surrogateescape")).hexdigest()[:32]
    name = f"{workdir}/{path}" if path else workdir
    return Place(name, INSIDE, (workdir, scratch, path, key))


def anywhere(path: str) -> Place:
    """Return the place of an absolute path; raises `InvalidPathError` for a part file's name."""
    if {".", ".."}.intersection(path.split("/")):
        raise StorageRefusedError(f"path: got {path!r}, expected one without '.' and '..'")
    directory, name = posixpath.split(path)
    return Place(path, ANYWHERE, (directory, name, path, part_name(name)))
