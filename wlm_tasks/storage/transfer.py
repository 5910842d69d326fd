"""How every transfer goes: look whether it is done, resume, move, verify, give the final name.

What is at the target already is compared with the source byte by byte if both are near. An end
that tells digests is far: then the other one is read and hashed, and only digests are compared.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from wlm_tasks.errors import (
    StepError,
    StorageAgainError,
    StorageRefusedError,
    StorageUnavailableError,
    TransientError,
)
from wlm_tasks.model.ends import Draws, Part, Readable, ReadBack, Source, Target
from wlm_tasks.storage.base import TransferControl, TransferResult
from wlm_tasks.storage.prefix import CHUNK, Prefix

#: with a bound on the rate, chunks are made so small that each takes about this long, in seconds
_CHUNK_S: Final = 0.25
_SMALLEST_CHUNK: Final = 4096
#: seconds a piece is to take that the hosts move by themselves, and how small and large it may be
_PIECE_S: Final = 0.5
_SMALLEST_PIECE: Final = 256 * 1024
_LARGEST_PIECE: Final = 1024 * 1024 * 1024
#: longest sleep before asking again whether to stop, in seconds
_NAP_S: Final = 0.1

#: moves one file, as `move` does
MoveOne = Callable[[Source, Target, TransferControl], TransferResult]


def move(source: Source, target: Target, control: TransferControl) -> TransferResult:
    """Bring `target` to the content of `source`, or as far as `control` allows."""
    with target.present() as present:
        if present is not None and present.size == source.size:
            result = _compare(source, present, control)
            if result is not None:
                return result
    try:
        return _move(source, target, control)
    except StorageAgainError:
        return _move(source, target, control)


def _move(source: Source, target: Target, control: TransferControl) -> TransferResult:
    with target.part(source.size) as part:
        return _Move(source, part, control).run()


def _compare(source: Source, present: Readable, control: TransferControl) -> TransferResult | None:
    """Return the result if what is there is the file wanted, or if time is up."""
    check = Prefix(source if control.sha256 is None else None, present, control)
    equal = check.run(source.size)
    if equal and control.sha256 is None:
        _require_whole(source)
    if equal:
        digest = check.digest() or present.digest(present.size)
        if control.sha256 in {None, digest}:
            size = source.size
            return TransferResult(complete=True, size=size, done=size, moved=0, sha256=digest)
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


class _Move:
    """One transfer into one part file."""

    def __init__(self, source: Source, part: Part, control: TransferControl) -> None:
        self._source = source
        self._part = part
        self._control = control
        self._moved = 0

    def run(self) -> TransferResult:
        source, size = self._source, self._source.size
        prefix = Prefix(source, self._part, self._control)
        prefix.run(min(self._part.size, size))
        # what was not looked at before the stop stays, the next slice looks at it
        try:
            stopped = prefix.stopped or self._copy(prefix)
        except TransientError:
            with suppress(StepError):  # the next try need not read again what this one has read
                prefix.keep()
            raise
        if not stopped:
            self._check_source(prefix)
            back = prefix.read_back() if isinstance(self._part, ReadBack) else None
            if not prefix.stopped:
                return self._finish(self._digest(prefix, back))
        if source.changed():
            raise StorageUnavailableError(f"{source.place}: was changed while it was read")
        prefix.keep()
        return TransferResult(complete=False, size=size, done=prefix.done, moved=self._moved)

    def _copy(self, prefix: Prefix) -> bool:
        """Copy what is missing; return whether it was stopped before the end."""
        # what is equal is kept, so that bytes of another source or of a broken write never stay
        self._part.truncate(prefix.done)
        if isinstance(self._part, Draws):
            return self._draw(self._part, prefix)
        size, control = self._source.size, self._control
        pace = Pace(control)
        while prefix.done < size:
            if control.should_stop():
                return True
            data = self._source.read_at(
                prefix.done, min(prefix.room(pace.chunk), size - prefix.done)
            )
            if not data:
                break
            self._part.write_at(prefix.done, data)
            prefix.add(data)
            self._moved += len(data)
            control.progress(prefix.done, size)
            pace.after(len(data))
        return False

    def _draw(self, part: Draws, prefix: Prefix) -> bool:
        """Have what is missing copied without us, in pieces that take about as long as a look."""
        size, control = self._source.size, self._control
        pace = Pace(control)
        piece = CHUNK
        while prefix.done < size:
            if control.should_stop():
                return True
            begun = time.monotonic()
            asked = min(pace.bounded(piece), size - prefix.done)
            drawn = part.draw(prefix.done, asked)
            if not drawn:
                break
            piece = _piece(drawn, time.monotonic() - begun)
            prefix.pass_over(drawn)
            self._moved += drawn
            control.progress(prefix.done, size)
            pace.after(min(drawn, asked))  # what is more cost nothing
        return False

    def _check_source(self, prefix: Prefix) -> None:
        try:
            _require_whole(self._source, short=prefix.done < self._source.size)
        except StorageRefusedError:
            self._part.discard()
            raise

    def _digest(self, prefix: Prefix, back: str | None) -> str:
        """Return the SHA-256 on which both ends agree, as far as they tell.

        `back` is that of what was read back.
        """
        source, part = self._source, self._part
        own = prefix.digest()
        expected = source.digest(source.size) or own
        for arrived in (own, back, part.digest(source.size)):
            if arrived not in {None, expected}:
                part.discard()
                raise StorageUnavailableError(
                    f"{part.place}: arrived with SHA-256 {arrived}, expected {expected}"
                )
        assert expected is not None  # noqa: S101 - only ends that tell leave nothing hashed
        return expected

    def _finish(self, digest: str) -> TransferResult:
        wanted, size = self._control.sha256, self._source.size
        if wanted is not None and wanted != digest:
            self._part.discard()
            raise StorageRefusedError(
                f"{self._source.place}: has SHA-256 {digest}, expected {wanted}"
            )
        self._part.commit(lambda name: digest if name == "sha256" else self._read_again(name))
        return TransferResult(complete=True, size=size, done=size, moved=self._moved, sha256=digest)

    def _read_again(self, name: str) -> str:
        digest, done = hashlib.new(name, usedforsecurity=False), 0
        while data := self._source.read_at(done, CHUNK):
            digest.update(data)
            done += len(data)
        return digest.hexdigest()


def _piece(drawn: int, took_s: float) -> int:
    """Return how many bytes to ask for next, as the last ones took so long."""
    fitting = int(drawn * _PIECE_S / max(took_s, 1e-3))
    return max(_SMALLEST_PIECE, min(fitting, 4 * drawn, _LARGEST_PIECE))


class Pace:
    """Keeps the rate of a transfer below its bound."""

    def __init__(self, control: TransferControl) -> None:
        self._control = control
        self._rate = control.bytes_per_s
        self._next = time.monotonic()
        self.chunk = self.bounded(CHUNK)

    def bounded(self, most: int) -> int:
        """Return how many bytes may go at once, at most so many."""
        if self._rate is None:
            return most
        return min(most, max(_SMALLEST_CHUNK, int(self._rate * _CHUNK_S)))

    def after(self, moved: int) -> None:
        """Sleep as long as moving that many bytes should have taken, unless told to stop."""
        if self._rate is None:
            return
        self._next = max(self._next, time.monotonic() - _CHUNK_S) + moved / self._rate
        while (left := self._next - time.monotonic()) > 0 and not self._control.should_stop():
            time.sleep(min(left, _NAP_S))
