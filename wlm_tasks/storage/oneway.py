"""Parts that begin empty each time and cannot be read back before they are whole."""

from __future__ import annotations

from collections.abc import Hashable

from wlm_tasks.errors import StorageRefusedError
from wlm_tasks.storage.stops import Stops


class OneWay:
    """What such a `Part` tells of itself; how bytes get there is the affair of each."""

    def __init__(self, name: str, place: str) -> None:
        """`name` is what stops are counted by, `place` is shown."""
        self.place = place
        self.stops = Stops(name, place)
        self.written = 0  #: bytes taken

    @property
    def size(self) -> int:
        """Nothing of it is there before it is whole."""
        return 0

    def read_at(self, offset: int, length: int) -> bytes:  # noqa: ARG002
        """Read nothing."""
        return b""

    def digest(self, length: int) -> str | None:  # noqa: ARG002
        """Tell nothing."""
        return None

    def identity(self) -> Hashable:
        """Return what no other part equals."""
        return object()

    def truncate(self, size: int) -> None:
        """Do nothing: it begins empty."""

    def follow(self, offset: int, length: int) -> None:
        """Count bytes that are taken; `StorageRefusedError` unless they follow those before."""
        if offset != self.written:
            raise StorageRefusedError(f"{self.place}: can only be written from begin to end")
        self.written += length
