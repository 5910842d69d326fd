"""The bash of whole directories, behind the prologues of `wlm_tasks.hosts.transfers`.

There `enter_source` and `enter_target` go to the directory, and `permissions` is an option of tar.
"""

from __future__ import annotations

from typing import Final

TREE_SCRIPTS: Final = {
    # of each file, each link and whatever is no directory
    "list": r"""
enter_source
find . -mindepth 1 -name .wlm-parts -prune -o ! -type d -printf '%y %m %s %P\0'
""",
    # LINK...
    "follow": r"""
enter_source
for link; do
  file=$(realpath -e -- "./$link") || exit
  if [[ $file != "${PWD%/}"/?* ]] || [ ! -f "$file" ]; then
    echo "$path/$link: is a symbolic link, expected one to a file of the same tree" >&2
    exit 67
  fi
  printf 'f %s %s\0' "$(stat -Lc '%a %s' -- "./$link")" "$link"
done
""",
    # WHICH FILE...
    "digests": r"""
which=$1
shift
"enter_$which"
there=()
for file; do
  [ -f "./$file" ] && { [ "$which" = source ] || [ ! -L "./$file" ]; } && there+=("./$file")
done
((${#there[@]})) || exit 0
printf '%s\0' "${there[@]}" | xargs -0 sha256sum -z --
""",
    # WORD FILE...
    "pack": r"""
word=$1
shift
enter_source
listed=$(mktemp -d) && trap 'rm -rf -- "$listed"' EXIT || exit
printf '%s\0' "$@" | xargs -0 sha256sum -- > "$listed/$word" || exit
printf '%s\0' "$@" | tar -chf - --hard-dereference --no-recursion --null -T - -C "$listed" "./$word"
""",
    # WORD FILE...
    "unpack": r"""
word=$1 parts=.wlm-parts
shift
busy() { echo "$path: is being written by another transfer" >&2; exit 75; }
enter_target
for try in 1 2 3; do
  [ ! -L "$parts" ] && mkdir -p "$parts" && exec 9< "$parts" || exit
  if ! flock -n 9; then
    if (($(date +%s) - $(stat -c %Y "$parts") > 1800)); then
      for fd in /proc/[0-9]*/fd/9; do
        pid=${fd#/proc/} pid=${pid%%/*}
        [ "$pid" = $$ ] || { [ "$fd" -ef "$parts" ] && kill -KILL "$pid"; }
      done 2> /dev/null
    fi
    flock -w 2 9 || busy
  fi
  [ "$parts" -ef /proc/self/fd/9 ] && break
  ((try < 3)) || busy
done
find "$parts" -mindepth 1 -delete
here=$PWD
cd "$parts" && tar -xf - --no-same-owner "$permissions" || exit
if [ -n "$(find . -mindepth 1 ! -type f ! -type d -print -quit)" ]; then
  echo "$path: something else than files arrived" >&2
  exit 67
fi
# the files that are meant, no others, and each with the digest that was told
found=$(find . -type f ! -path "./$word" -printf . | wc -c)
if [ "$found" != $# ] || ! cmp -s <(sort -- "$word") \
  <(printf './%s\0' "$@" | xargs -0 sha256sum -- | sort); then
  echo "$path: did not arrive whole" >&2
  exit 75
fi
find . -type f -perm /7000 -exec chmod a-s,a-t {} +
rm -- "$word" && sync -f . && cd "$here" || exit
cp -rlT --remove-destination "$parts" . || exit
rm -rf "$parts"
sync -f .
""",
}
