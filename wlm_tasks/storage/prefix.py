"""How many bytes two ends have in common, from the first on."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from typing import Final

from wlm_tasks.model.ends import Blocks, Readable, Source
from wlm_tasks.storage.base import TransferControl
from wlm_tasks.storage.checkpoints import Checkpoint, Checkpoints, Digest

#: bytes moved at once
CHUNK: Final = 1024 * 1024
_CHECKPOINTS: Final = Checkpoints()


class Prefix:
    """Reads what a target has, hashes it, and compares it with the source if there is one.

    Without a source it only hashes.
    """

    def __init__(self, source: Source | None, there: Readable, control: TransferControl) -> None:
        self.stopped = False
        self._source = source
        self._there = there
        self._control = control
        found = _CHECKPOINTS.find(self._key())
        if found is None or found.done > there.size:
            found = Checkpoint(hashlib.sha256())
        self._at = found
        self._block = there.block if isinstance(there, Blocks) else None
        self._whole = self._at.copy()  #: how it was where a block ended

    @property
    def done(self) -> int:
        """Bytes found equal."""
        return self._at.done

    def digest(self) -> str | None:
        """Return the digest of those bytes, None if they were not read here."""
        return None if self._at.digest is None else self._at.digest.hexdigest()

    def _key(self) -> Hashable:
        return self._source and self._source.identity(), self._there.identity()

    def keep(self) -> None:
        """Let a later slice begin here, if nothing has touched the files by then.

        With blocks it begins, and this one ends, where the last whole one does.
        """
        if self._block:
            self._at = self._whole.copy()
        _CHECKPOINTS.keep(self._key(), self._at)

    def add(self, data: bytes) -> None:
        """Take in bytes that are equal, since they have just been copied."""
        if self._at.compared == self._at.done:
            self._at.compared += len(data)
        if self._at.back is None and self._at.digest is not None:
            self._at.back = self._at.done, self._at.digest.copy()
        self._take_in(data)

    def _take_in(self, data: bytes) -> None:
        if self._at.digest is not None:
            self._at.digest.update(data)
        self._at.done += len(data)
        self._at.differs = False
        if self._block and self.done % self._block == 0:
            self._whole = self._at.copy()

    def pass_over(self, length: int) -> None:
        """Take in bytes that are copied but were not seen here: their digest is not known."""
        compared = self._at.compared == self._at.done
        self._skip(self._at.done + length)
        if compared:
            self._at.compared = self._at.done

    def room(self, chunk: int) -> int:
        """Return how many bytes may be added at once: those of one chunk and of one block."""
        return min(chunk, self._block - self.done % self._block) if self._block else chunk

    def run(self, size: int) -> bool:
        """Return whether the first `size` bytes are equal; False also when stopped.

        Where they are not, `done` says up to which chunk they are.
        """
        source, there = self._source, self._there
        if self._at.differs:
            return False
        if self._at.compared >= size > 0 and self.done >= size:
            return True
        if source is None:
            return (_tells(there) and self._skip(size)) or self._read(there, None, size)
        if isinstance(there, Blocks):
            return self._by_blocks(there, source, size)
        return self._compare(there, source, size)

    def read_back(self) -> str | None:
        """Read what was only written so far; return the digest of all, None when stopped.

        Bytes that were found equal by reading them are not read again.
        """
        done, digest = self._at.back or (self._at.done, self._at.digest or hashlib.sha256())
        while done < self.done:
            if self._control.should_stop():
                self.stopped = True
                return None
            data = self._there.read_at(done, min(CHUNK, self.done - done))
            if not data:
                break
            digest.update(data)
            done += len(data)
            self._at.back = done, digest
        return digest.hexdigest()

    def _compare(self, there: Readable, source: Source, size: int) -> bool:
        """Compare with the source in the way that moves the fewest bytes."""
        if _tells(there):
            near = None if _tells(source) else source
            return self._by_digests(near, [there] if near else [there, source], size)
        if _tells(source):
            return self._by_digests(there, [source], size)
        return self._read(there, source, size)

    def _skip(self, size: int) -> bool:
        """Pass over bytes that nobody has to read here."""
        if size:
            self._at.digest, self._at.done = None, size
        return True

    def _read(self, there: Readable, source: Source | None, size: int) -> bool:
        """Read up to `size`, comparing with the source if there is one."""
        while self.done < size and not self._at.differs:
            if self._control.should_stop():
                self.stopped = True
                return False
            data = there.read_at(self.done, min(CHUNK, size - self.done))
            self._at.differs = not data or not _is_there(source, self.done, data)
            if not self._at.differs:
                self._take_in(data)
                self._at.mark(CHUNK)
                self._control.progress(self.done, size)
        return not self._at.differs

    def _by_blocks(self, there: Blocks, source: Source, size: int) -> bool:
        """Read the source up to `size` and have it compared block by block."""
        while self.done < size and not self._at.differs:
            if self._control.should_stop():
                self.stopped = True
                return False
            data = _bytes_of(source, self.done, min(there.block, size - self.done))
            self._at.differs = not there.holds(self.done, data)
            if not self._at.differs:
                self.add(data)
                self._control.progress(self.done, size)
        return not self._at.differs

    def _by_digests(self, near: Readable | None, far: list[Readable], size: int) -> bool:
        """Compare digests: that of the near end, which is read, with that of the far one.

        Without a near end those of the two far ones.
        """
        if near is not None and not self._read(near, None, size):
            if not self.stopped:  # it has become shorter, and nothing of it was compared
                self._back_to(0, None)
            return False
        own = self.digest() if near is not None else far[1].digest(size)
        if far[0].digest(size) == own:
            self._at.compared = size
            return True if near is not None else self._skip(size)
        self._at.differs = True
        if near is None:
            self._back_to(self._common(far, size // CHUNK), None)
        else:
            self._back_to_mark(far[0])
        return False

    def _common(self, far: list[Readable], chunks: int) -> int:
        """Return of how many chunks the digests of both far ends are equal."""
        low, high = 0, chunks + 1
        while high - low > 1:
            middle = (low + high) // 2
            first, second = (end.digest(middle * CHUNK) for end in far)
            low, high = (middle, high) if first == second else (low, middle)
        return low * CHUNK

    def _back_to_mark(self, far: Readable) -> None:
        """Go back to the last mark up to which the far end has the same."""
        marks = self._at.marks
        low, high = -1, len(marks)
        while high - low > 1:
            middle = (low + high) // 2
            done, digest = marks[middle]
            equal = far.digest(done) == digest.hexdigest()
            low, high = (middle, high) if equal else (low, middle)
        done, state = marks[low] if low >= 0 else (0, hashlib.sha256())
        self._at.marks = marks[: low + 1]
        self._back_to(done, state.copy())

    def _back_to(self, done: int, digest: Digest | None) -> None:
        self._at.done = self._at.compared = done
        self._at.digest = digest if done else hashlib.sha256()


def _tells(end: Readable) -> bool:
    """Whether an end tells digests: that of no bytes costs nothing."""
    return end.digest(0) is not None


def _bytes_of(source: Source, offset: int, length: int) -> bytes:
    """Return all bytes there, fewer only at the end."""
    data = bytearray()
    while len(data) < length and (found := source.read_at(offset + len(data), length - len(data))):
        data += found
    return bytes(data)


def _is_there(source: Source | None, offset: int, data: bytes) -> bool:
    """Whether the source has these bytes there."""
    at = 0
    while source is not None and at < len(data):
        found = source.read_at(offset + at, len(data) - at)
        if not found or data[at : at + len(found)] != found:
            return False
        at += len(found)
    return True
