"""How far this process has compared files that lie still, so that no slice reads them again.

Comparing starts at the first byte and is over in one slice or in several. Without a memory a file
that takes longer to compare than a slice would never get on. A checkpoint counts only as long as
neither file was touched since; where nothing is remembered (another process goes on, or this one
was started again) the bytes are read, and no byte is trusted that nobody has read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Final, Protocol, Self

#: checkpoints kept; the one unused for longest goes first
_LIMIT: Final = 64
#: states kept of one comparison
_MARKS: Final = 256


class Digest(Protocol):
    """A digest that can go on from where it is: it cannot be written to a file or a row."""

    def copy(self) -> Self:
        """Return one that goes on by itself."""

    def update(self, data: bytes, /) -> None:
        """Take in more bytes."""

    def hexdigest(self) -> str:
        """Return the digest of all bytes so far."""


@dataclass
class Checkpoint:
    """How far a comparison got."""

    digest: Digest | None  #: of the bytes found equal; None if they were not read here
    done: int = 0  #: bytes found equal
    differs: bool = False  #: whether the next ones are not
    compared: int = 0  #: of them, bytes whose digest the far end has told
    #: of them, those that were read back, and their digest; None if those behind were not written
    back: tuple[int, Digest] | None = None
    #: states on the way, to go back to: (bytes, digest of so many), at most `_MARKS`
    marks: list[tuple[int, Digest]] = field(default_factory=list)
    _apart: int = 1  #: steps from one mark to the next

    def copy(self) -> Self:
        """Return one that goes on by itself."""
        digest = None if self.digest is None else self.digest.copy()
        back = None if self.back is None else (self.back[0], self.back[1].copy())
        return replace(self, digest=digest, marks=list(self.marks), back=back)

    def mark(self, step: int) -> None:
        """Note the state, called after every `step` bytes."""
        if self.digest is None or self.done % (step * self._apart):
            return
        if len(self.marks) >= _MARKS:
            del self.marks[::2]
            self._apart *= 2
        self.marks.append((self.done, self.digest.copy()))


class Checkpoints:
    """Checkpoints by the identities of the files compared."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, Checkpoint] = OrderedDict()
        self._lock = Lock()

    def keep(self, key: Hashable, checkpoint: Checkpoint) -> None:
        """Remember how far the comparison of these files got."""
        with self._lock:
            self._kept[key] = checkpoint.copy()
            self._kept.move_to_end(key)
            while len(self._kept) > _LIMIT:
                self._kept.popitem(last=False)

    def find(self, key: Hashable) -> Checkpoint | None:
        """Return what is remembered of these files, as the caller's own."""
        with self._lock:
            found = self._kept.get(key)
            return None if found is None else found.copy()
