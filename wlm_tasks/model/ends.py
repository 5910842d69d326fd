"""The two ends of a transfer: what is read from and what is written to, wherever they are.

Storages and sites give ends, `wlm_tasks.storage.transfer` moves bytes between any two of them.
An end may raise what the backend it is of may raise. Offsets and lengths are bytes.
"""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import AbstractContextManager
from typing import Protocol


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

    def commit(self) -> None:
        """Make the bytes durable and give the file its final name."""

    def discard(self) -> None:
        """Remove what has arrived."""


class Target(Protocol):
    """Where the file is to go."""

    def present(self) -> AbstractContextManager[Readable | None]:
        """Open the file that has the final name already, if one has."""

    def part(self, size: int) -> AbstractContextManager[Part]:
        """Open and lock what has arrived of a file of `size` bytes, nothing at first.

        What was written is there for the next transfer when the block ends. Raises
        `StorageUnavailableError` if another transfer has locked it.
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
