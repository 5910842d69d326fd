"""The bash of transfers to and from another host.

A prologue defines how to get to a file: `open_source` opens it on descriptor 3, `to_target` goes to
its directory and sets `name` and `part`. The prologues' arguments are the first four of a script.
"""

from __future__ import annotations

from typing import Final

from wlm_tasks.hosts.scripts import PREAMBLE

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
open_regular() {  # FILE: without waiting for the other end of a FIFO
  if [ ! -e "$1" ]; then
    cat -- "$1" > /dev/null  # says why
    echo "$path: No such file or directory" >&2
    exit 67
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

#: scripts by name; their own arguments are behind the prologue's
SCRIPTS: Final = {
    "stat": r"""
open_source
status /proc/self/fd/3
""",
    # WHICH LENGTH
    "digest": r"""
if [ "$1" = source ]; then
  open_source
else
  to_target
  [ "$1" = present ] && file=./$name || file=$part
  [ ! -L "$file" ] && exec 3< "$file" || exit
fi
if (($(stat -Lc %s /proc/self/fd/3) <= $2)); then
  sha256 <&3
else
  head -c "$2" <&3 | sha256
fi
""",
    # OFFSET
    "read": r"""
open_source
(($1 > 0)) || exec cat <&3
exec tail -c "+$(($1 + 1))" <&3
""",
    "look": r"""
to_target
if [ -d "./$name" ] && [ ! -L "./$name" ]; then
  echo "$path: Is a directory" >&2
  exit 67
fi
if [ -e "./$name" ] && [ ! -L "./$name" ]; then
  [ -f "./$name" ] || { echo "$path: is no regular file" >&2; exit 67; }
  printf 'present 6 %s\n' "$(status "./$name")"
fi
if [ -L "$part" ]; then rm -f -- "$part"; fi
if [ -f "$part" ]; then printf 'part 6 %s\n' "$(status "$part")"; fi
printf 'room 1 %s\n' "$(df --output=avail -B1 . | tail -n 1)"
""",
    "stat-part": r"""
to_target
status "$part"
""",
    # OFFSET
    "write": r"""
to_target
[ ! -L "$part" ] || rm -f -- "$part"
for try in 1 2 3; do
  exec 9>> "$part" || exit
  if ! flock -n 9; then
    # of a broken connection nobody may have told the host yet
    if (($(date +%s) - $(stat -c %Y -- "$part") > 60)); then
      for fd in /proc/[0-9]*/fd/9; do
        pid=${fd#/proc/} pid=${pid%%/*}
        [ "$pid" = $$ ] || { [ "$fd" -ef "$part" ] && kill -KILL "$pid"; }
      done 2> /dev/null
    fi
    flock -w 2 9 || { echo "$path: is being written by another transfer" >&2; exit 75; }
  fi
  [ "$part" -ef /proc/self/fd/9 ] && break  # else it was renamed or removed meanwhile
  ((try < 3)) || exit 75
done
truncate -s "$1" -- "$part" || exit 1
exec cat >&9
""",
    # MODE, empty for the usual one
    "commit": r"""
to_target
[ -z "$1" ] || grant "$1" "$part" || exit 1
sync -- "$part" || exit 1
mv -fT -- "$part" "./$name" && sync -- . || exit 1
""",
    "discard": r"""
to_target
rm -f -- "$part"
""",
}
