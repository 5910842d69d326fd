"""How every transfer goes: look whether it is done, resume, move, verify, give the final name."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final, Protocol

from wlm_tasks.errors import StorageRefusedError, StorageUnavailableError
from wlm_tasks.storage.base import TransferControl, TransferResult

#: bytes moved at once
CHUNK: Final = 1024 * 1024
#: with a bound on the rate, chunks are made so small that each takes about this long, in seconds
_CHUNK_S: Final = 0.25
_SMALLEST_CHUNK: Final = 4096
#: longest sleep before asking again whether to stop, in seconds
_NAP_S: Final = 0.1


class Readable(Protocol):
    """Bytes to read from."""

    place: str  #: for messages

    @property
    def size(self) -> int:
        """Bytes in all, as it was when it was opened."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Return the bytes there, fewer at the end."""


class Source(Readable, Protocol):
    """The file to move."""

    def changed(self) -> bool:
        """Return whether it is not the file any more that was opened."""


class Part(Readable, Protocol):
    """The target's part file, locked against other transfers."""

    def write_at(self, offset: int, data: bytes) -> None:
        """Write all of `data` there."""

    def truncate(self, size: int) -> None:
        """Cut off what follows."""

    def commit(self) -> None:
        """Make the bytes durable and give the file its final name."""

    def discard(self) -> None:
        """Remove the part file."""


class Target(Protocol):
    """Where the file is to go."""

    def present(self) -> AbstractContextManager[Readable | None]:
        """Open the file that has the final name already, if one has."""

    def part(self) -> AbstractContextManager[Part]:
        """Open and lock the part file; raises `StorageUnavailableError` if it is locked."""


def move(source: Source, target: Target, control: TransferControl) -> TransferResult:
    """Bring `target` to the content of `source`, or as far as `control` allows."""
    with target.present() as present:
        if present is not None and present.size == source.size:
            result = _compare(source, present, control)
            if result is not None:
                return result
    with target.part() as part:
        return _Move(source, part, control).run()


def _compare(source: Source, present: Readable, control: TransferControl) -> TransferResult | None:
    """Return the result if what is there is the file wanted, or if time is up."""
    check = _Prefix(source if control.sha256 is None else None, present, control)
    if check.run(source.size):
        digest = check.digest.hexdigest()
        if control.sha256 in {None, digest}:
            return TransferResult(
                complete=True, size=source.size, done=source.size, moved=0, sha256=digest
            )
        return None
    if check.stopped:
        return TransferResult(complete=False, size=source.size, done=check.done, moved=0)
    return None


class _Prefix:
    """Reads what a target has, hashes it, and compares it with the source if there is one."""

    def __init__(self, source: Source | None, there: Readable, control: TransferControl) -> None:
        self.digest = hashlib.sha256()
        self.done = 0  #: bytes found equal and hashed
        self.stopped = False
        self._source = source
        self._there = there
        self._control = control

    def run(self, size: int) -> bool:
        """Return whether the first `size` bytes are equal; False also when stopped."""
        while self.done < size:
            if self._control.should_stop():
                self.stopped = True
                return False
            length = min(CHUNK, size - self.done)
            data = self._there.read_at(self.done, length)
            if len(data) < length:
                return False
            if self._source is not None and self._source.read_at(self.done, length) != data:
                return False
            self.digest.update(data)
            self.done += length
            self._control.progress(self.done, size)
        return True


class _Move:
    """One transfer into one part file."""

    def __init__(self, source: Source, part: Part, control: TransferControl) -> None:
        self._source = source
        self._part = part
        self._control = control
        self._moved = 0

    def run(self) -> TransferResult:
        source, size = self._source, self._source.size
        there = min(self._part.size, size)
        prefix = _Prefix(source, self._part, self._control)
        prefix.run(there)
        if prefix.stopped:
            # what was not looked at yet stays, the next slice looks at it
            return TransferResult(complete=False, size=size, done=prefix.done, moved=0)
        # what is equal is kept, so that bytes of another source or of a broken write never stay
        self._part.truncate(prefix.done)
        done = self._copy(prefix.done, prefix.digest.update)
        if source.changed():
            raise StorageUnavailableError(f"{source.place}: was changed while it was read")
        if done < size:
            return TransferResult(complete=False, size=size, done=done, moved=self._moved)
        return self._finish(prefix.digest.hexdigest())

    def _copy(self, done: int, update: Callable[[bytes], None]) -> int:
        size, control = self._source.size, self._control
        pace = _Pace(control)
        while done < size and not control.should_stop():
            data = self._source.read_at(done, min(pace.chunk, size - done))
            if not data:
                break
            self._part.write_at(done, data)
            update(data)
            done += len(data)
            self._moved += len(data)
            control.progress(done, size)
            pace.after(len(data))
        return done

    def _finish(self, digest: str) -> TransferResult:
        wanted, size = self._control.sha256, self._source.size
        if wanted is not None and wanted != digest:
            self._part.discard()
            raise StorageRefusedError(
                f"{self._source.place}: has SHA-256 {digest}, expected {wanted}"
            )
        self._part.commit()
        return TransferResult(complete=True, size=size, done=size, moved=self._moved, sha256=digest)


class _Pace:
    """Keeps the rate of a transfer below its bound."""

    def __init__(self, control: TransferControl) -> None:
        self._control = control
        self._rate = control.bytes_per_s
        self._next = time.monotonic()
        self.chunk = CHUNK
        if self._rate is not None:
            self.chunk = min(CHUNK, max(_SMALLEST_CHUNK, int(self._rate * _CHUNK_S)))

    def after(self, moved: int) -> None:
        """Sleep as long as moving that many bytes should have taken, unless told to stop."""
        if self._rate is None:
            return
        self._next = max(self._next, time.monotonic() - _CHUNK_S) + moved / self._rate
        while (left := self._next - time.monotonic()) > 0 and not self._control.should_stop():
            time.sleep(min(left, _NAP_S))
