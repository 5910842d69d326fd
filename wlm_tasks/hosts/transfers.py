"""The bash of transfers to and from another host.

They run behind a prologue of `wlm_tasks.hosts.places`; their own arguments follow the prologue's.
"""

from __future__ import annotations

from typing import Final

#: scripts by name; their own arguments are behind the prologue's
SCRIPTS: Final = {
    "stat": r"""
open_source
status /proc/self/fd/3
""",
    # WHICH LENGTH
    "digest": r"""
open_"$1"
if (($(stat -Lc %s /proc/self/fd/3) <= $2)); then
  sha256 <&3
else
  head -c "$2" <&3 | sha256
fi
""",
    # WHICH OFFSET
    "read": r"""
open_"$1"
(($2 > 0)) || exec cat <&3
exec tail -c "+$(($2 + 1))" <&3
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
    # SIZE SEEN SOURCE: what `look` said, and for `draw` the bash that copies, if the source is on
    # this host; then line by line what to do, as long as the other side is there
    "receive": r"""
size=$1 seen=$2 source=$3
is_ours() { [ ! -L "$part" ] && [ "$part" -ef /proc/self/fd/9 ]; }
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
  hold "$part"
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
    take) head -c "$value" >&9 || exit 1; stat -Lc %s /proc/self/fd/9 ;;
    # OFFSET LENGTH; what copies has the lock, too, as it has descriptor 9
    draw) (eval "$source") < /dev/null || exit; stat -Lc %s /proc/self/fd/9 ;;
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
