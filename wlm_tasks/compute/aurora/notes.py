"""What the attempt's directory remembers of a submission to Aurora, beside the files of `Attempt`.

========== ==============================================================================
sent       a call of createJob was about to begin; its time is the beginning
absent     a look-up after that found no task of the job; its time is the first such look-up
made       the job exists at Aurora, or did (these two only without a shared scratch)
unseen     the tasks whose agent was lost; its time is when that was first seen of them
limit      seconds after which a task that began has ended, with the transfers it makes
now.*      made to read the clock of whoever keeps the files, and removed
========== ==============================================================================

All times are those of the file system, so that hosts whose clocks differ agree on them.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wlm_tasks.compute.attempt import Attempt, Claim
from wlm_tasks.compute.base import JobRef

#: seconds granted to a job beyond its limit before its silence is an end
_SILENCE_S: Final = 60.0


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long it takes until an empty look-up counts. Times are seconds."""

    #: after the beginning of createJob, in which a scheduler may still be at it
    deadline_s: float = 40.0
    #: between two look-ups of which both must be empty
    spacing_s: float = 10.0


class Notes(Attempt):
    """The files of one attempt on an Aurora site. Writing needs the lock."""

    def __init__(self, ref: JobRef, patience: Patience) -> None:
        super().__init__(ref)
        self._patience = patience

    @property
    def was_sent(self) -> bool:
        """Whether createJob may have been called without its outcome being known."""
        return os.path.lexists(self.file("sent"))

    def begin_sending(self) -> None:
        """Note that createJob is about to be called."""
        self._forget("absent")
        self.write("sent", "")

    def forget_sending(self) -> None:
        """Note that createJob certainly was not done."""
        self._forget("sent")
        self._forget("absent")

    def is_absent(self) -> bool:
        """Note that a look-up found nothing; True once that proves that there is no such job."""
        now = self._now()
        sent = self._time("sent")
        if sent is not None and now < sent + self._patience.deadline_s:
            return False
        first = self._time("absent")
        if first is None or (sent is not None and first < sent + self._patience.deadline_s):
            self.write("absent", "")
            return False
        return now >= first + self._patience.spacing_s

    def close(self) -> Claim | None:
        """Take the claim, so that no copy of the job can start from now on; return what holds."""
        self.take_claim()
        return self.claim()

    def limit_over(self, claim: Claim) -> bool:
        """Whether the time limit of the job that made the claim ended some while ago.

        By the claim file's own time, since the agent's clock may be another.
        """
        begun = self._time("started")
        return begun is not None and self._now() > begun + claim.limit_s + _SILENCE_S

    @property
    def was_made(self) -> bool:
        """Whether Aurora certainly had the job once."""
        return os.path.lexists(self.file("made"))

    def note_made(self) -> None:
        """Note that Aurora has the job, so that it is never created again."""
        if not self.was_made:
            self.write("made", "")

    def unseen_over(self, tasks: str) -> bool:
        """Note that the agent of some tasks is lost; True once all must have ended there, too."""
        begun = self._time("unseen")
        # what Aurora started since then may have begun the payload since then
        if begun is None or Path(self.file("unseen")).read_text() != tasks:
            self.write("unseen", tasks)
            return False
        try:
            limit_s = float(Path(self.file("limit")).read_text())
        except (FileNotFoundError, ValueError):
            return False
        return self._now() > begun + limit_s + _SILENCE_S

    def _time(self, name: str) -> float | None:
        try:
            return Path(self.file(name)).stat().st_mtime
        except FileNotFoundError:
            return None

    def _now(self) -> float:
        probe = self.file(f"now.{secrets.token_hex(8)}")
        fd = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            return os.fstat(fd).st_mtime
        finally:
            os.close(fd)
            Path(probe).unlink()

    def _forget(self, name: str) -> None:
        Path(self.file(name)).unlink(missing_ok=True)
