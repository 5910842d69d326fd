"""The steps that stage files: one transfer after the other until the slice is over."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from wlm_tasks.model.experiment import Transfer
from wlm_tasks.storage.base import TransferControl
from wlm_tasks.tasks.work import Done, Outcome, Sliced, Work

#: seconds between two saves of a transfer's progress
_SAVE_EVERY_S: Final = 1.0
#: seconds over which the rate is taken
_RATE_OVER_S: Final = 10.0


def transfer_all(
    work: Work,
    transfers: Sequence[Transfer],
    move: Callable[[Transfer, TransferControl], bool],
) -> Outcome:
    """Move what is to be moved until the slice is over. Transfers before `file` are verified."""
    for index in range(work.progress.get("file", 0), len(transfers)):
        note = _Note(work, index, len(transfers))
        control = TransferControl(
            should_stop=work.should_stop,
            progress=note.progress,
            sha256=transfers[index].sha256,
            bytes_per_s=work.runtime.settings.staging.bytes_per_s,
        )
        if not move(transfers[index], control):
            return Sliced(note.state())
        if work.should_stop() and index + 1 < len(transfers):
            return Sliced(_Note(work, index + 1, len(transfers)).state())
    return Done()


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
        lease_s = self._work.runtime.settings.steps.lease_s
        self._work.runtime.store.claims.progress(self._work.claim, self.state(), lease_s)

    def state(self) -> str:
        """Return it as JSON: transfer by number, transfers, its bytes done and in all, bytes/s."""
        return json.dumps(
            {
                "file": self._index,
                "files": self._count,
                "bytes": self._done,
                "total": self._total,
                "rate": self._rate(),
            }
        )

    def _rate(self) -> int:
        if len(self._marks) < 2:  # noqa: PLR2004 - a rate needs two
            return 0
        (begun, before), (now, done) = self._marks[0], self._marks[-1]
        return round(max(0, done - before) / max(now - begun, 1e-3))
