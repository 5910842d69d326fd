"""The two ends of a transfer: what is read from and what is written to, wherever they are.

Storages and sites give ends, `wlm_tasks.storage.transfer` moves bytes between any two of them.
An end may raise what the backend it is of may raise. Offsets and lengths are bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

#: returns a digest of the source, lower-case hex, by its name for `hashlib`; any but ``sha256``
#: reads it once more
DigestOf = Callable[[str], str]


class Readable(Protocol):
    """Bytes to read from."""

    place: str  #: for messages

    @property
    def size(self) -> int:
        """Bytes in all, as it was when it was opened."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Return the bytes there, fewer at the end or at the end's own convenience; none behind it.

        Whoever reads goes on where the last read ended, mostly: an end may read ahead.
        """

    def digest(self, length: int) -> str | None:
        """Return the SHA-256 of the first bytes, lower-case hex, computed where they are.

        None if only reading all of them would tell.
        """

    def identity(self) -> Hashable:
        """Return what is another as soon as the bytes may be others.

        What was read is that of when it was opened, a part file that of now.
        """


class Source(Readable, Protocol):
    """The file to move."""

    mode: int | None  #: its permission bits, None where there is no such thing

    def changed(self) -> bool:
        """Return whether it is not the file any more that was opened."""


class Part(Readable, Protocol):
    """What has arrived of a file so far; other transfers are locked out."""

    def truncate(self, size: int) -> None:
        """Cut off what follows. Where a transfer cannot be resumed `size` is always 0."""

    def write_at(self, offset: int, data: bytes) -> None:
        """Write all of `data` behind what is there; it may be on its way yet on return."""

    def commit(self, digest: DigestOf) -> None:
        """Make the bytes durable and give the file its final name; `digest` tells theirs."""

    def discard(self) -> None:
        """Remove what has arrived."""


@runtime_checkable
class Blocks(Protocol):
    """What a part has beside that if it is kept in blocks, which can only be compared.

    Such a part is never read. What a transfer leaves of it ends where a block ends.
    """

    block: int  #: bytes of each, except for the last one of the file

    def holds(self, offset: int, data: bytes) -> bool:
        """Return whether the block that begins there, which is there, is `data`."""


@runtime_checkable
class Draws(Protocol):
    """What a part has beside that if its host gets the bytes of the source without us."""

    def draw(self, offset: int, length: int) -> int:
        """Get the bytes of the source there, behind what is there, and return how many.

        Fewer only if the source has no more; more if that costs nothing.
        """


@runtime_checkable
class ReadBack(Protocol):
    """What a part has beside that if it is read again once it is whole.

    So it is where nothing else tells which bytes the storage has.
    """

    reads_back: bool


class Target(Protocol):
    """Where the file is to go."""

    def present(self) -> AbstractContextManager[Readable | None]:
        """Open the file that has the final name already, if one has."""

    def part(self, size: int) -> AbstractContextManager[Part]:
        """Open and lock what has arrived of a file of `size` bytes, nothing at first.

        What was written is there for the next transfer when the block ends. Raises
        `StorageBusyError` if another transfer has locked it, or has just finished.
        """


class Directory(Protocol):
    """An experiment's directory, as the place to move files to and from, never out of it."""

    def source(self, path: str) -> AbstractContextManager[Source]:
        """Open the regular file at `path` below the directory.

        Links are followed as long as they stay below it. Raises `StorageRefusedError` if there is
        no such file.
        """

    def target(self, path: str, mode: int | None) -> AbstractContextManager[Target]:
        """Open the place of `path` below the directory, directories made as needed.

        The way never leads through a symbolic link. `mode` are the permission bits wanted, None
        for the usual ones.
        """

    def tree(self, path: str, pattern: str) -> Tree:
        """Return the files below `path`, those of names like `pattern` there if it says any.

        `path` is empty for the directory itself.
        """

    def tree_target(self, path: str) -> TreeTarget:
        """Return the directory at `path` to move files to, made as needed."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A regular file of a tree."""

    path: str  #: below the tree
    size: int  #: bytes, when the tree was listed
    mode: int  #: permission bits


class Tree(Protocol):
    """Files below a directory to move together."""

    place: str  #: for messages

    def entries(self) -> list[Entry]:
        """Return the files that are meant, sorted by path.

        Raises `StorageRefusedError` for a missing directory, for what is neither file nor
        directory, and for a symbolic link that leads anywhere but to a file of the tree.
        """

    def source(self, path: str) -> AbstractContextManager[Source]:
        """Open one of them."""

    def digests(self, entries: Sequence[Entry]) -> dict[str, str]:
        """Return the SHA-256 of these files by path, in one go."""

    def pack(self, entries: Sequence[Entry], word: str) -> AbstractContextManager[Iterator[bytes]]:
        """Return a tar archive of these files as a stream.

        Its members are called ``./path``; the last one has the name `word` and says in the format
        of sha256sum(1) which digests they have.
        """


class TreeTarget(Protocol):
    """A directory to move files to."""

    unpacks: bool  #: whether it takes archives; else files go one by one

    def target(self, path: str, mode: int | None) -> AbstractContextManager[Target]:
        """Open the place of one file."""

    def digests(self, entries: Sequence[Entry]) -> dict[str, str]:
        """Return the SHA-256 by path of those of these files that are there, of the same size."""

    def unpack(
        self, entries: Sequence[Entry], word: str, stream: Iterator[bytes]
    ) -> dict[str, str]:
        """Take these files from a stream of `Tree.pack`, and no others; return their SHA-256.

        Each gets its name when all are there, have the digests that the archive says, and are on
        the disk. Called only if it `unpacks`.
        """
