"""Small files of directories that hosts move by themselves, packed and unpacked there."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Final

from wlm_tasks.errors import StorageUnavailableError
from wlm_tasks.hosts.detours import Logins
from wlm_tasks.hosts.direct import SMALLEST, ssh, text_of
from wlm_tasks.hosts.scripts import UNREACHED
from wlm_tasks.hosts.shell import compose
from wlm_tasks.hosts.trees import HostTree, HostTreeTarget, pack_words, unpack_words
from wlm_tasks.hosts.treescripts import TREE_SCRIPTS
from wlm_tasks.model import checksums
from wlm_tasks.model.ends import Entry, Tree, TreeTarget

#: SENDER MARK RECEIVER GREETING, as those of `wlm_tasks.hosts.direct`
_JOIN: Final = rf"""
export LC_ALL=C
sender=$1 mark=$2 receiver=$3 greeting=$4 said=
{{
  printf %s "$greeting"
  exec 8< <(eval "$sender")
  pid=$!
  until [[ $said == *"$mark" ]]; do IFS= read -r said <&8 || exit {UNREACHED}; done
  cat <&8 || exit 141  # who receives has ended before, and says why
  wait "$pid"
}} | (eval "$receiver")
codes=("${{PIPESTATUS[@]}}")
for code in "${{codes[@]}}"; do
  case $code in 126 | 127 | 255 | {UNREACHED}) exit {UNREACHED} ;; esac
done
# what does not arrive whole is refused by who unpacks it; why it did not, the other one knows
case ${{codes[0]}} in 0 | 141) exit "${{codes[1]}}" ;; *) exit "${{codes[0]}}" ;; esac
"""


class TreeWay:
    """How files of a tree go to another directory without the worker."""

    def __init__(self, tree: HostTree, target: HostTreeTarget, *, pushed: bool) -> None:
        """Unless they are `pushed` the target's host fetches them."""
        self._tree = tree
        self._target = target
        self._pushed = pushed
        ends = tree.files, target.files
        self._by, other = ends if pushed else reversed(ends)
        self._other = other.address
        self.hosts = f"{self._by.address} to {self._other}"

    def carry(self, entries: Sequence[Entry], word: str) -> dict[str, str]:
        """Bring these files there, as `TreeTarget.unpack` does; return their SHA-256.

        May raise `NoDirectWayError` beside what the ends may.
        """
        mark = secrets.token_hex(8)
        source, target = self._tree.directory, self._target.directory
        send = compose(
            f"echo {mark}\n{source.prologue}{TREE_SCRIPTS['pack']}",
            [*source.arguments, *pack_words(entries, word)],
        )
        receive = compose(
            f"echo {mark}\n{target.prologue}{TREE_SCRIPTS['unpack']}",
            [*target.arguments, *unpack_words(entries, word)],
        )
        sender, receiver, greeting = text_of(send), text_of(receive), ""
        if self._by.address.place != self._other.place:
            if self._pushed:
                receiver, greeting = ssh(self._other, receive), receiver
            else:
                sender = ssh(self._other, send, then=":")
        out = self._by.call(
            _JOIN,
            [sender, mark, receiver, greeting],
            about=self.hosts,
            size=sum(entry.size for entry in entries),
        )
        # start-up files may have said something before
        _noise, found, text = out.partition(f"{mark}\n".encode())
        try:
            return checksums.read(text if found else out)
        except ValueError as error:
            raise StorageUnavailableError(f"{self.hosts}: answers {error!r}") from error


def tree_ways(
    tree: Tree, target: TreeTarget, entries: Sequence[Entry], logins: Logins
) -> list[TreeWay]:
    """Return how these files may go without the worker, the best way first; none if they cannot."""
    if not isinstance(tree, HostTree) or not isinstance(target, HostTreeTarget):
        return []
    if tree.files.address.place == target.files.address.place:
        return [TreeWay(tree, target, pushed=False)]
    if sum(entry.size for entry in entries) < SMALLEST:
        return []
    return [
        *([TreeWay(tree, target, pushed=False)] if logins.target else []),
        *([TreeWay(tree, target, pushed=True)] if logins.source else []),
    ]
