"""The steps that stage files: one transfer after the other until the slice is over."""

from __future__ import annotations

import json
import os
import random
import secrets
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final

from wlm_tasks.config import StorageSettings
from wlm_tasks.model.experiment import Transfer
from wlm_tasks.model.paths import is_url
from wlm_tasks.runtime import Runtime
from wlm_tasks.storage.base import TransferControl, TransferResult
from wlm_tasks.tasks.work import Crowded, Done, Outcome, Sliced, Work

#: seconds between two saves of a transfer's progress
_SAVE_EVERY_S: Final = 1.0
#: seconds for which a place at a storage is kept without a sign of life
_PLACE_S: Final = 120.0
#: seconds before a place is asked for again, at random in between
_AGAIN_S: Final = (2.0, 6.0)
#: seconds over which the rate is taken
_RATE_OVER_S: Final = 10.0


def transfer_all(
    work: Work,
    transfers: Sequence[Transfer],
    move: Callable[[Transfer, TransferControl], TransferResult | None],
) -> Outcome:
    """Move what is to be moved until the slice is over. Transfers before `file` are verified.

    `move` returns None where there is nothing to move.
    """
    for index in range(work.progress.get("file", 0), len(transfers)):
        note = _Note(work, index, len(transfers))
        with _place(work.runtime, transfers[index]) as place:
            if place.refused:
                note.save()
                return Crowded(place.refused, random.uniform(*_AGAIN_S))  # noqa: S311 - no secret
            control = TransferControl(
                should_stop=partial(_should_stop, work, place),
                progress=note.progress,
                tell=note.tell,
                sha256=transfers[index].sha256,
                bytes_per_s=place.rate,
            )
            result = move(transfers[index], control)
        if result is not None:
            if not result.complete:
                return Sliced(note.state())
            _write_down(work, index, result)
        if work.should_stop() and index + 1 < len(transfers):
            return Sliced(_Note(work, index + 1, len(transfers)).state())
    return Done()


def _write_down(work: Work, index: int, result: TransferResult) -> None:
    noted, lease_s = work.runtime.store.transfers, work.runtime.settings.steps.lease_s
    if result.digests is None:
        noted.note_file(work.claim, index, result.size, result.sha256, lease_s)
    else:
        noted.note_directory(work.claim, index, result.size, result.digests, lease_s)


class _Place:
    """One transfer's place at its storage, if that limits them."""

    def __init__(self, runtime: Runtime, storage: StorageSettings | None) -> None:
        self.refused = ""
        share = None if storage is None else storage.share_bytes_per_s
        rates = [runtime.settings.staging.bytes_per_s, share]
        self.rate = min((rate for rate in rates if rate is not None), default=None)
        self._leases = runtime.store.connections
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(6)}"
        self._renewed_at = time.monotonic()
        self._line = ""
        if storage is None or storage.max_transfers is None:
            return
        line, most = f"storage {storage.name}", storage.max_transfers
        if self._leases.take(line, most, self._holder, _PLACE_S):
            self._line = line
        else:
            self.refused = f"{line}: has as many transfers as it may ({most})"

    def renew(self) -> None:
        """Keep the place; called between chunks."""
        now = time.monotonic()
        if self._line and now - self._renewed_at > _PLACE_S / 4:
            self._renewed_at = now
            self._leases.renew(self._line, self._holder, _PLACE_S)

    def give_back(self) -> None:
        if self._line:
            self._leases.give_back(self._line, self._holder)


@contextmanager
def _place(runtime: Runtime, transfer: Transfer) -> Iterator[_Place]:
    """Have a place for a transfer; one of its ends is the experiment's directory."""
    url = transfer.src if is_url(transfer.src) else transfer.dest
    place = _Place(runtime, runtime.settings.storage(url))
    try:
        yield place
    finally:
        place.give_back()


def _should_stop(work: Work, place: _Place) -> bool:
    place.renew()
    return work.should_stop()


class _Note:
    """How far one transfer got, saved once a second at most."""

    def __init__(self, work: Work, index: int, count: int) -> None:
        self._work = work
        self._index = index
        self._count = count
        self._done = self._total = 0
        self._saved_at = time.monotonic()
        #: (when, bytes done) of the last seconds
        self._marks: deque[tuple[float, int]] = deque()
        self._words = ""  #: on how it goes

    def tell(self, words: str) -> None:
        """Take in what a person should know; the first time a step says so it is in its events."""
        self._words = words
        if words not in self._work.told:
            self._work.told.add(words)
            self._work.runtime.store.transfers.note_words(self._work.claim, words)

    def progress(self, done: int, total: int) -> None:
        """Take in how much is done."""
        self._done, self._total = done, total
        now = time.monotonic()
        if not self._marks:
            self._marks.append((now, done))
        if now - self._saved_at < _SAVE_EVERY_S:
            return
        self._saved_at = now
        self._marks.append((now, done))
        while now - self._marks[0][0] > _RATE_OVER_S:
            self._marks.popleft()
        self.save()

    def save(self) -> None:
        """Write it down, and tell it."""
        lease_s = self._work.runtime.settings.steps.lease_s
        self._work.runtime.store.claims.progress(self._work.claim, self.state(), lease_s)
        self._work.tell(self._fields())

    def state(self) -> str:
        """Return it as JSON."""
        words = {"words": self._words} if self._words else {}
        return json.dumps({**self._fields(), **words})

    def _fields(self) -> dict[str, int]:
        """Transfer by number, transfers, its bytes done and in all, bytes a second."""
        return {
            "file": self._index,
            "files": self._count,
            "bytes": self._done,
            "total": self._total,
            "rate": self._rate(),
        }

    def _rate(self) -> int:
        if len(self._marks) < 2:  # noqa: PLR2004 - a rate needs two
            return 0
        (begun, before), (now, done) = self._marks[0], self._marks[-1]
        return round(max(0, done - before) / max(now - begun, 1e-3))
