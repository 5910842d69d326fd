"""Inputs that a site has already, by their SHA-256, so that each is moved there once.

They are in ``.wlm-cache`` below the site's scratch directory. Beside each is a seal with its size
and time of modification: whoever writes to it breaks the seal, and then it is compared and brought
again before it is used. An experiment gets a clone that shares blocks where the file system can do
that, else a copy; or, if the site's settings say so, a hard link that nobody may write to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from wlm_tasks.errors import JobRejectedError, StorageRefusedError
from wlm_tasks.hosts.places import INSIDE, inside
from wlm_tasks.hosts.scripts import PREAMBLE, failure
from wlm_tasks.hosts.shell import Shell

#: the cache's directory below scratch; no experiment's has such a name
DIRECTORY: Final = ".wlm-cache"
#: smallest file that is worth it, in bytes
SMALLEST: Final = 1024 * 1024
_SLACK_S: Final = 120.0
_SLOW: Final = 5e6

_KEPT: Final = r"""
cache=$scratch/.wlm-cache
kept=$cache/${digest:0:2}/$digest
[ ! -L "$cache" ] && [ ! -L "${kept%/*}" ] && [ ! -L "$kept" ] || exit 67
identity() { stat -c '%s %.9Y' -- "$1"; }
"""
#: arguments: those of `INSIDE`, DIGEST MODE LINK
_TAKE: Final = (
    INSIDE
    + "digest=$1 mode=$2 link=$3"
    + _KEPT
    + r"""
mkdir -p -m 700 -- "$cache" || exit
[ -f "$kept" ] && read -r sealed 2> /dev/null < "$kept.seal" || { echo none; exit; }
[ "$sealed" = "$(identity "$kept")" ] || { echo none; exit; }
to_target
[ -L "./$name" ] || [ ! -d "./$name" ] || { echo "$path: Is a directory" >&2; exit 67; }
new=$part.$$
trap 'rm -f -- "$new"' EXIT
if [ -n "$link" ]; then
  ln -T -- "$kept" "$new" || exit 1
else
  cp --reflink=auto --sparse=auto -- "$kept" "$new" &&
    chmod "${mode:-$(stat -c %a -- "$kept")}" -- "$new" && chmod u+w -- "$new" || exit 1
  # it may have been written to meanwhile
  [ "$sealed" = "$(identity "$kept")" ] || { echo none; exit; }
  sync -- "$new" || exit 1
fi
mv -fT -- "$new" "./$name" && sync -- . || exit 1
touch -- "$kept.seal"
echo taken
"""
)
#: arguments: SCRATCH DIGEST
_SIZE: Final = (
    PREAMBLE
    + "scratch=$1 digest=$2"
    + _KEPT
    + r"""
[ ! -f "$kept" ] || [ ! -f "$kept.seal" ] || stat -c %s -- "$kept"
"""
)
#: arguments: SCRATCH DIGEST MOST; MOST are the bytes that the cache may have
_SEAL: Final = (
    PREAMBLE
    + "scratch=$1 digest=$2 most=$3"
    + _KEPT
    + r"""
chmod a-w,u+r -- "$kept" && identity "$kept" > "$kept.new" || exit 1
mv -fT -- "$kept.new" "$kept.seal" || exit 1
exec 9>> "$cache/lock" && flock -w 30 9 || exit 0
total=0
cd -- "$cache" || exit 1
while read -r _ seal; do  # what was used last comes first
  file=${seal%.seal}
  size=$(stat -c %s -- "$file") || continue
  total=$((total + size))
  ((total <= most)) || [ "$file" = "${digest:0:2}/$digest" ] || rm -f -- "$file" "$seal"
done < <(find . -mindepth 2 -maxdepth 2 -name '*.seal' -printf '%T@ %P\n' | sort -rn)
exit 0
"""
)


class SiteCache:
    """The cache of one site."""

    def __init__(self, shell: Shell, scratch: str, *, most_bytes: int, link: bool) -> None:
        self._shell = shell
        self._scratch = scratch
        self._most = most_bytes
        self._link = link

    @property
    def directory(self) -> str:
        """Where it is."""
        return f"{self._scratch}/{DIRECTORY}"

    @staticmethod
    def path(digest: str) -> str:
        """Where a file is in it."""
        return f"{digest[:2]}/{digest}"

    def size(self, digest: str) -> int | None:
        """Return how many bytes a file has that is in the cache, None if it is not.

        May raise what a `ComputeBackend` may, and `StorageRefusedError`.
        """
        found = self._run(_SIZE, [self._scratch, digest], self.directory, 0).strip()
        return int(found) if found else None

    def take(self, digest: str, size: int, workdir: str, path: str, mode: int | None) -> bool:
        """Give an experiment the file of `size` bytes; None for `mode` is that of its first source.

        False if the cache has it not, or no longer as it was. May raise what `size` may.
        """
        bits = "" if mode is None else f"{mode & 0o777 | 0o600:o}"
        place = inside(workdir, self._scratch, path)
        words = [*place.arguments, digest, bits, "link" if self._link else ""]
        return self._run(_TAKE, words, place.name, size).strip() == "taken"

    def seal(self, digest: str) -> None:
        """Vouch for a file that has just been moved to the cache, and make room if need be."""
        words = [self._scratch, digest, str(self._most)]
        self._run(_SEAL, words, f"{self.directory}/{self.path(digest)}", 0)

    def _run(self, script: str, words: Sequence[str], about: str, size: int) -> str:
        ran = self._shell.run(script, words, timeout_s=_SLACK_S + size / _SLOW)
        if not ran.code:
            return ran.out.decode(errors="replace")
        error = failure(ran, about)
        if isinstance(error, JobRejectedError):
            raise StorageRefusedError(error.message) from error
        raise error
