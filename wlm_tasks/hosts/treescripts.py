"""The bash of whole directories, behind the prologues of `wlm_tasks.hosts.places`.

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
if ! printf '%s\0' "$@" | xargs -0 sha256sum -- > "$listed/$word"; then
  for file; do  # one that went after the directory was listed
    [ -e "$file" ] || { echo "$path/$file: No such file or directory" >&2; exit 68; }
  done
  exit 1
fi
printf '%s\0' "$@" | tar -chf - --hard-dereference --no-recursion --null -T - -C "$listed" "./$word"
""",
    # WORD FILE...
    "unpack": r"""
word=$1 parts=.wlm-parts
shift
enter_target
for try in 1 2 3; do
  [ ! -L "$parts" ] && mkdir -p "$parts" && exec 9< "$parts" || exit
  hold "$parts"
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
cat -- "$word" && rm -- "$word" && sync -f . || exit
while IFS= read -r -d '' dir; do  # a directory comes before those in it
  if [ -L "$here/$dir" ]; then
    echo "$path/$dir: is a symbolic link, expected a directory" >&2
    exit 67
  fi
  [ -d "$here/$dir" ] || printf '%s\0' "$here/$dir"
done < <(find . -mindepth 1 -type d -printf '%P\0') | xargs -0 -r mkdir -p -- || exit
((PIPESTATUS[0])) && exit 67
# renamed, directory by directory: what had such a name is replaced in one moment
into=. files=() named=0
rename() {
  ((${#files[@]})) || return 0
  mv -f -t "$here/$into" -- "${files[@]}" || exit
  named=$((named + ${#files[@]})) files=()
}
while IFS= read -r -d '' dir && IFS= read -r -d '' file; do
  [ "$dir" = "$into" ] || { rename; into=$dir; }
  files+=("./$dir/$file")
done < <(find . -type f -printf '%h\0%f\0')
rename
((named == $#)) && cd "$here" || exit
rm -rf "$parts"
sync -f .
""",
}
