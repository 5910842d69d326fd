"""How every transfer goes: look whether it is done, resume, move, verify, give the final name."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Hashable
from contextlib import AbstractContextManager
from typing import Final, Protocol

from wlm_tasks.errors import StorageRefusedError, StorageUnavailableError
from wlm_tasks.storage.base import TransferControl, TransferResult
from wlm_tasks.storage.checkpoints import Checkpoint, Checkpoints

#: bytes moved at once
CHUNK: Final = 1024 * 1024
#: with a bound on the rate, chunks are made so small that each takes about this long, in seconds
_CHUNK_S: Final = 0.25
_SMALLEST_CHUNK: Final = 4096
#: longest sleep before asking again whether to stop, in seconds
_NAP_S: Final = 0.1
_CHECKPOINTS: Final = Checkpoints()


class Readable(Protocol):
    """Bytes to read from."""

    place: str  #: for messages

    @property
    def size(self) -> int:
        """Bytes in all, as it was when it was opened."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Return the bytes there, fewer at the end."""

    def identity(self) -> Hashable:
        """Return what is another as soon as the bytes may be others.

        What was read is that of when it was opened, a part file that of now.
        """


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
    equal = check.run(source.size)
    if equal and control.sha256 is None:
        _require_whole(source)
    digest = check.digest()
    if equal and control.sha256 in {None, digest}:
        return TransferResult(
            complete=True, size=source.size, done=source.size, moved=0, sha256=digest
        )
    # where it differs it will differ in the next slice, too: that is then found at once
    check.keep()
    if check.stopped:
        return TransferResult(complete=False, size=source.size, done=check.done, moved=0)
    return None


def _require_whole(source: Source, *, short: bool = False) -> None:
    """Raise unless the source is what was opened and has as many bytes as its size says.

    Files of /proc and /sys do not: what they say of their size is no measure of a whole copy.
    """
    odd = short or bool(source.read_at(source.size, 1))
    if source.changed():
        raise StorageUnavailableError(f"{source.place}: was changed while it was read")
    if odd:
        raise StorageRefusedError(
            f"{source.place}: has {'fewer' if short else 'more'} bytes than the {source.size} it"
            " says it has, expected a regular file"
        )


class _Prefix:
    """Reads what a target has, hashes it, and compares it with the source if there is one."""

    def __init__(self, source: Source | None, there: Readable, control: TransferControl) -> None:
        self.stopped = False
        self._source = source
        self._there = there
        self._control = control
        self._at = _CHECKPOINTS.find(self._key()) or Checkpoint(hashlib.sha256())

    @property
    def done(self) -> int:
        """Bytes found equal and hashed."""
        return self._at.done

    def digest(self) -> str:
        """Return the digest of those bytes."""
        return self._at.digest.hexdigest()

    def _key(self) -> Hashable:
        return self._source and self._source.identity(), self._there.identity()

    def keep(self) -> None:
        """Let a later slice begin here, if nothing has touched the files by then."""
        _CHECKPOINTS.keep(self._key(), self._at)

    def add(self, data: bytes) -> None:
        """Take in bytes that are equal."""
        self._at.digest.update(data)
        self._at.done += len(data)
        self._at.differs = False

    def run(self, size: int) -> bool:
        """Return whether the first `size` bytes are equal; False also when stopped."""
        while self.done < size and not self._at.differs:
            if self._control.should_stop():
                self.stopped = True
                return False
            length = min(CHUNK, size - self.done)
            data = self._there.read_at(self.done, length)
            self._at.differs = len(data) < length or not self._is_of_source(data)
            if not self._at.differs:
                self.add(data)
                self._control.progress(self.done, size)
        return not self._at.differs

    def _is_of_source(self, data: bytes) -> bool:
        return self._source is None or self._source.read_at(self.done, len(data)) == data


class _Move:
    """One transfer into one part file."""

    def __init__(self, source: Source, part: Part, control: TransferControl) -> None:
        self._source = source
        self._part = part
        self._control = control
        self._moved = 0

    def run(self) -> TransferResult:
        source, size = self._source, self._source.size
        prefix = _Prefix(source, self._part, self._control)
        prefix.run(min(self._part.size, size))
        # what was not looked at before the stop stays, the next slice looks at it
        stopped = prefix.stopped or self._copy(prefix)
        if not stopped:
            self._require_whole(prefix)
            return self._finish(prefix.digest())
        if source.changed():
            raise StorageUnavailableError(f"{source.place}: was changed while it was read")
        prefix.keep()
        return TransferResult(complete=False, size=size, done=prefix.done, moved=self._moved)

    def _copy(self, prefix: _Prefix) -> bool:
        """Copy what is missing; return whether it was stopped before the end."""
        # what is equal is kept, so that bytes of another source or of a broken write never stay
        self._part.truncate(prefix.done)
        size, control = self._source.size, self._control
        pace = _Pace(control)
        while prefix.done < size:
            if control.should_stop():
                return True
            data = self._source.read_at(prefix.done, min(pace.chunk, size - prefix.done))
            if not data:
                break
            self._part.write_at(prefix.done, data)
            prefix.add(data)
            self._moved += len(data)
            control.progress(prefix.done, size)
            pace.after(len(data))
        return False

    def _require_whole(self, prefix: _Prefix) -> None:
        try:
            _require_whole(self._source, short=prefix.done < self._source.size)
        except StorageRefusedError:
            self._part.discard()
            raise

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
