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
  status "./$name"
fi
""",
    # SIZE SEEN, what `look` said; then line by line what to do, as long as the other side is there
    "receive": r"""
size=$1 seen=$2
is_ours() { [ ! -L "$part" ] && [ "$part" -ef /proc/self/fd/9 ]; }
busy() { echo "$path: is being written by another transfer" >&2; exit 75; }
keep_fresh() {  # SIZE: what takes long is not to look as if nobody were there
  keeper=
  (($1 > 1 << 30)) || return 0
  (
    trap 'kill $nap; exit' TERM
    while kill -0 $$; do
      sleep 30 &
      nap=$!
      wait $nap
      touch -c -- "$part"
    done
  ) < /dev/null > /dev/null 2>&1 9>&- &
  keeper=$!
}
to_target
if [ -L "$part" ]; then rm -f -- "$part"; fi
for try in 1 2 3; do
  exec 9>> "$part" || exit
  if ! flock -n 9; then
    # of a broken connection nobody may have told the host yet
    if (($(date +%s) - $(stat -c %Y -- "$part") > 1800)); then
      for fd in /proc/[0-9]*/fd/9; do
        pid=${fd#/proc/} pid=${pid%%/*}
        [ "$pid" = $$ ] || { [ "$fd" -ef "$part" ] && kill -KILL "$pid"; }
      done 2> /dev/null
    fi
    flock -w 2 9 || busy  # a killed one's script may need a moment
  fi
  # else it was renamed or removed meanwhile; another name of it would be another's file
  if is_ours; then
    [ "$(stat -Lc %h /proc/self/fd/9)" != 1 ] || break
    rm -f -- "$part"
  fi
  ((try < 3)) || busy
done
now=
[ -L "./$name" ] || [ ! -f "./$name" ] || now=$(status "./$name")
if [ "$now" != "$seen" ]; then  # another was faster, and what is there may be what is wanted
  [ -s "$part" ] || rm -f -- "$part"
  busy
fi
missing=$((size - $(stat -Lc %s /proc/self/fd/9)))
room=$(df --output=avail -B1 . | tail -n 1)
if ((missing > room)); then
  [ -s "$part" ] || rm -f -- "$part"
  echo "$path: No space left on device: $room bytes are free, $missing needed" >&2
  exit 1
fi
status /proc/self/fd/9
while read -r word value; do
  case $word in
    truncate) truncate -s "$value" /proc/self/fd/9 || exit 1; echo ok ;;
    # exactly so many bytes: what follows is the next line
    take) head -c "$value" >&9 || exit 1; echo ok ;;
    status) status /proc/self/fd/9 ;;
    digest)
      keep_fresh "$value"
      if (($(stat -Lc %s /proc/self/fd/9) <= value)); then
        sum=$(sha256 < /proc/self/fd/9) || exit 1
      else
        sum=$(head -c "$value" < /proc/self/fd/9 | sha256) || exit 1
      fi
      [ -z "$keeper" ] || kill "$keeper"
      printf '%s\n' "$sum"
      ;;
    commit)
      [ -z "$value" ] || grant "$value" /proc/self/fd/9 || exit 1
      sync -- /proc/self/fd/9 && is_ours || busy
      mv -fT -- "$part" "./$name" && sync -- . || exit 1
      echo ok
      ;;
    discard) ! is_ours || rm -f -- "$part"; echo ok ;;
    *) echo "what is $word?" >&2; exit 1 ;;
  esac
done
exit 0
""",
    "stat-part": r"""
to_target
status "$part"
""",
    "discard": r"""
to_target
rm -f -- "$part"
""",
}
