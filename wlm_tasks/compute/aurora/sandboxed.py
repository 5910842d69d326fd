"""Sites of Aurora whose agents share no directory with the workers.

A job brings its scripts, has its inputs fetched by Mesos, sends its outputs itself, and leaves its
exit record and output at the site's ``upload_url`` if there is one. The attempt's directory holds
only what workers must remember of a submission; no job sees it. So one job of Aurora for each
attempt is kept as on other sites, while one run of the payload depends on what Aurora starts again:
the mark at ``upload_url`` stops a second run, and without it a poll ends it where it can.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Final

from wlm_tasks.compute import evidence
from wlm_tasks.compute.attempt import Claim, ExitRecord
from wlm_tasks.compute.aurora import alone, carrying
from wlm_tasks.compute.aurora import generations as tasks_of
from wlm_tasks.compute.aurora.backend import NOT_LISTED, AuroraBackend
from wlm_tasks.compute.aurora.generations import Generation
from wlm_tasks.compute.aurora.job import native_id
from wlm_tasks.compute.aurora.notes import Notes
from wlm_tasks.compute.aurora.uploads import Uploads
from wlm_tasks.compute.base import JobRef, JobSpec, JobState, JobStatus
from wlm_tasks.compute.local import translated
from wlm_tasks.errors import (
    BackendUnavailableError,
    InvalidPathError,
    JobRejectedError,
    PermanentError,
)
from wlm_tasks.model.experiment import Transfer

_log = logging.getLogger(__name__)
#: seconds for which an ended job waits for its record when the upload server does not tell
_RECORD_WAIT_S: Final = 60.0
#: how often Aurora may start a job again that leaves no mark, as some do that cannot be fetched
_STARTS: Final = 5
#: longest wait for the lock of a poll that keeps a record, in seconds
_KEEP_S: Final = 1.0
#: longest that the records of all ended jobs hold up a poll, in seconds; a last one may end later
_POLL_S: Final = 10.0
_GONE: Final = JobStatus(state=JobState.LOST, reason=f"{NOT_LISTED} how it ended is not known")
_CANCELLED: Final = JobStatus(state=JobState.CANCELLED, reason="cancelled")


class SandboxedBackend(AuroraBackend):
    """Runs jobs in sandboxes that share nothing; `scratch` is a directory of the workers alone."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._uploads = Uploads(self._options.upload_url)
        self._asked_s = 0.0

    def prepare(
        self,
        workdir: str,
        token: str | None = None,
        *,
        disk_mb: int | None = None,  # noqa: ARG002 - Aurora finds an agent with as much
        mark: int | None = None,
    ) -> None:
        """Make the experiment's directory, in which no job's files are."""
        super().prepare(workdir, token, mark=mark)

    @property
    def carries_files(self) -> bool:
        """Mesos's fetcher brings inputs, the job sends outputs."""
        return True

    def check_transfers(self, inputs: Sequence[Transfer], outputs: Sequence[Transfer]) -> None:
        """Refuse what neither Mesos's fetcher nor an upload can carry."""
        carrying.check(inputs, outputs)

    def _texts(self, spec: JobSpec) -> dict[str, str]:
        try:
            carrying.check(spec.inputs, spec.outputs)
        except InvalidPathError as error:  # the site's settings were others at intake
            raise JobRejectedError(error.message) from error
        transfers_s = self._options.transfer_s * (bool(spec.inputs) + bool(spec.outputs))
        limit_s = spec.resources.walltime_s + spec.ref.stop_grace_s + transfers_s
        return {"limit": f"{limit_s:.3f}"}

    def _exists(self, notes: Notes) -> bool:
        # pruned or not: what was made once is never made again
        return notes.was_made or bool(self._look(notes.ref.token))

    def _note_made(self, notes: Notes) -> None:
        notes.note_made()

    def status(self, refs: Sequence[JobRef]) -> dict[str, JobStatus]:
        """Judge by one request to Aurora, and one for the record of each job that ended."""
        self._asked_s = 0.0
        return super().status(refs)

    def _judge(self, notes: Notes, found: Sequence[Generation]) -> JobStatus:
        try:
            if not found:
                return self._missing(notes) or _GONE
            marked = bool(self._uploads) and len(found) <= _STARTS
            if not marked and alone.begun_again(found):
                return self._end_copy(notes, found)
            record = self._record(notes, found)
            return alone.judge(
                found,
                record=record,
                cancelled=notes.cancelled,
                marked=bool(self._uploads),
                limit_over=lambda: _unseen_over(notes, found),
            )
        except (BackendUnavailableError, OSError) as error:
            return JobStatus(state=JobState.UNKNOWN, reason=str(error))

    def _absent(self, notes: Notes) -> JobStatus:
        if (record := self._fetched(notes)) is not None:
            _keep(notes, record)
            return evidence.ended(record, cancelled=notes.cancelled)
        return _CANCELLED if notes.cancelled else _GONE

    def _end_copy(self, notes: Notes, found: Sequence[Generation]) -> JobStatus:
        """Have a task killed that Aurora began after another that may have run the payload."""
        token = notes.ref.token
        first = next((one.words for one in found if one.was_on_an_agent and one.ended), "")
        _log.warning("site %s: job %s was started again, ending that: %s", self.name, token, first)
        with suppress(BackendUnavailableError, PermanentError):  # the next poll does it again
            self._scheduler.kill(token)
        return JobStatus(
            state=JobState.RUNNING, reason=f"{first}; what Aurora started in its place is ended"
        )

    def _record(self, notes: Notes, found: Sequence[Generation]) -> ExitRecord | None:
        """Return what the ended job uploaded; waits a while for a server that does not tell."""
        if not self._uploads or not all(one.ended for one in tasks_of.newest(found)):
            return None
        late = self._late
        try:
            record = self._fetched(notes)
        except BackendUnavailableError as error:
            ended_at = max((one.ended_at or 0.0 for one in found), default=0.0)
            silent = 0.0 <= self._uploads.silent_s < _RECORD_WAIT_S
            if late or silent or time.time() < ended_at + _RECORD_WAIT_S:
                raise
            _log.warning("site %s: a job without its record: %s", self.name, error.message)
            return None
        if record is not None and alone.credible(found, record):
            _keep(notes, record)
        return record

    @property
    def _late(self) -> bool:
        """Whether this poll asks for no further record; a server that is silent is left alone."""
        return self._asked_s > _POLL_S and self._uploads.silent_s < 0.0

    def _fetched(self, notes: Notes) -> ExitRecord | None:
        if not self._uploads:
            return None
        if self._late:
            raise BackendUnavailableError("its record is fetched in the next poll")
        begun = time.monotonic()
        try:
            return self._uploads.record(notes.ref.token)
        finally:
            self._asked_s += time.monotonic() - begun

    @translated
    def find(self, ref: JobRef) -> str | None:
        """Return the job's key if Aurora has it, or had it."""
        known = self._exists(Notes(ref, self._patience))
        return native_id(self._options, ref.token) if known else None

    def _has_ended(self, notes: Notes) -> bool:
        if notes.cancelled:
            return False
        found = self._look(notes.ref.token)
        return all(one.ended for one in found) and tasks_of.confirmed(found)

    def _surely_over(
        self,
        notes: Notes,
        claim: Claim | None,  # noqa: ARG002 - no job makes one here
        found: Sequence[Generation],
    ) -> bool:
        if not found:
            # a call without an answer may still be done, and then runs: no claim would stop it
            with notes.locked():
                return not notes.was_sent or notes.is_absent()
        ran = [one for one in found if one.was_on_an_agent]
        return not ran or tasks_of.confirmed(ran) or _unseen_over(notes, found)

    def tail(self, ref: JobRef, stream: str, lines: int) -> str:
        """Return the last lines of what the ended job uploaded; nothing while it runs."""
        if stream not in {"stdout", "stderr"}:
            raise ValueError(f"stream: got {stream!r}, expected stdout or stderr")
        return self._uploads.tail(ref.token, stream, lines) if self._uploads else ""

    def caveats(self) -> tuple[str, ...]:
        """Return what is not promised without a shared scratch."""
        if self._uploads:
            second = (
                "a task that Aurora starts again runs the payload only if the first left no mark"
                " at upload_url; of two that start at once both may, unless that server heeds"
                " If-None-Match"
            )
            return (second, "output is seen when the job has ended, not before")
        return (
            "a task that Aurora holds for lost and starts again may run the payload a second time"
            " before a poll ends it: set upload_url",
            "without upload_url there is no output to read, and a failure is told only by"
            " Aurora's words, without an exit code",
        )

    def close(self) -> None:
        """Close the connections."""
        super().close()
        self._uploads.close()


def _keep(notes: Notes, record: ExitRecord) -> None:
    """Keep a record, so that it is fetched but once."""
    with notes.locked(_KEEP_S):
        if notes.exit() is None:
            notes.write("exit.json", json.dumps(asdict(record)))


def _unseen_over(notes: Notes, found: Sequence[Generation]) -> bool:
    """Whether a payload that is out of sight must have ended."""
    tasks = " ".join(sorted(one.task_id for one in tasks_of.newest(found)))
    with notes.locked(_KEEP_S):
        return notes.unseen_over(tasks)
