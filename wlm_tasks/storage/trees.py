"""How a directory goes: what is there stays, small files travel together, large ones alone.

Small files are packed into a stream, so that none costs a round trip or the start of a program.
They are named in bunches, every one of them whole and verified by its SHA-256 before.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from wlm_tasks.errors import StorageMissingError, StorageRefusedError, StorageUnavailableError
from wlm_tasks.model.ends import Entry, Tree, TreeTarget
from wlm_tasks.storage.base import TransferControl, TransferResult
from wlm_tasks.storage.transfer import MoveOne, Pace, move

#: largest file that is packed, in bytes: it is in memory as a whole for a moment
SMALL: Final = 2 * 1024 * 1024
#: most files and bytes of a bunch
BUNCH_FILES: Final = 1000
BUNCH_BYTES: Final = 32 * 1024 * 1024
#: files whose digests are asked for at once
_ASKED: Final = 1000


#: moves small files of a tree together, as `move_bunch` does
MoveBunch = Callable[[Tree, TreeTarget, Sequence[Entry], TransferControl], dict[str, str]]


def move_bunch(
    tree: Tree, target: TreeTarget, entries: Sequence[Entry], control: TransferControl
) -> dict[str, str]:
    """Bring small files to where archives are unpacked; return their SHA-256."""
    word = archive_word()
    with tree.pack(entries, word) as stream:
        return target.unpack(entries, word, _paced(stream, control))


def archive_word() -> str:
    """Return a name that no file has, for an archive's last member."""
    return f".wlm-{secrets.token_hex(8)}"


def _paced(stream: Iterator[bytes], control: TransferControl) -> Iterator[bytes]:
    pace = Pace(control)
    for data in stream:
        yield data
        pace.after(len(data))


def move_tree(
    tree: Tree,
    target: TreeTarget,
    control: TransferControl,
    one: MoveOne = move,
    bunch: MoveBunch = move_bunch,
) -> TransferResult:
    """Bring the files of `tree` to `target`, or as many as `control` allows.

    `one` moves each that does not travel with others, `bunch` those that do.
    """
    entries = tree.entries()
    if not entries:
        raise StorageRefusedError(f"{tree.place}: has no file that is meant")
    return _Move(tree, target, control, entries, one=one, bunch=bunch).run()


class _Move:
    def __init__(
        self,
        tree: Tree,
        target: TreeTarget,
        control: TransferControl,
        entries: list[Entry],
        *,
        one: MoveOne,
        bunch: MoveBunch,
    ) -> None:
        self._move = one
        self._move_bunch = bunch
        self._tree = tree
        self._target = target
        self._control = control
        self._entries = entries
        self._size = sum(entry.size for entry in entries)
        self._done = self._moved = 0
        self._digests: dict[str, str] = {}

    def run(self) -> TransferResult:
        starts = range(0, len(self._entries), _ASKED)
        complete = all(self._group(self._entries[at : at + _ASKED]) for at in starts)
        complete = complete and self._done == self._size
        return TransferResult(
            complete=complete,
            size=self._size,
            done=self._done,
            moved=self._moved,
            digests=self._digests if complete else None,
        )

    def _group(self, entries: Sequence[Entry]) -> bool:
        """Move what is missing of some files; False if it is time to stop."""
        small: list[Entry] = []
        large: list[Entry] = []
        try:
            for entry in self._missing(entries):
                (small if entry.size <= SMALL else large).append(entry)
            if not all(self._bunch(bunch) for bunch in _bunches(small)):
                return False
            return all(self._one(entry) for entry in large)
        except StorageMissingError as error:
            # it was there when the directory was listed
            raise StorageUnavailableError(f"{error.message}, it was there before") from error

    def _missing(self, entries: Sequence[Entry]) -> Iterator[Entry]:
        """Yield what is not there, or is something else there."""
        there = self._target.digests(entries)
        mine = self._tree.digests([entry for entry in entries if entry.path in there])
        for entry in entries:
            if entry.path in there and there[entry.path] == mine.get(entry.path):
                self._digests[entry.path] = there[entry.path]
                self._add(entry.size, moved=False)
            else:
                yield entry

    def _bunch(self, entries: Sequence[Entry]) -> bool:
        """Move small files; False if it is time to stop."""
        if self._control.should_stop():
            return False
        if not self._target.unpacks:
            return all(self._one(entry) for entry in entries)
        self._digests |= self._move_bunch(self._tree, self._target, entries, self._control)
        self._add(sum(entry.size for entry in entries))
        return True

    def _one(self, entry: Entry) -> bool:
        """Move one file; False if it was time to stop before its end."""
        done = self._done
        control = replace(
            self._control,
            progress=lambda at, _size: self._control.progress(done + at, self._size),
            sha256=None,
        )
        with (
            self._tree.source(entry.path) as source,
            self._target.target(entry.path, source.mode) as target,
        ):
            # it may have grown since it was listed
            self._size += source.size - entry.size
            result = self._move(source, target, control)
        self._moved += result.moved
        self._done += result.done
        if result.sha256 is not None:
            self._digests[entry.path] = result.sha256
        return result.complete

    def _add(self, size: int, *, moved: bool = True) -> None:
        self._done += size
        self._moved += size if moved else 0
        self._control.progress(self._done, self._size)


def _bunches(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    bunch: list[Entry] = []
    size = 0
    for entry in entries:
        if bunch and (len(bunch) >= BUNCH_FILES or size + entry.size > BUNCH_BYTES):
            yield bunch
            bunch, size = [], 0
        bunch.append(entry)
        size += entry.size
    if bunch:
        yield bunch
