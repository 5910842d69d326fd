"""The site: jobs of Apache Aurora on Mesos, with a scratch directory that workers and agents share.

Payloads are guarded as on a local site, by the files of the attempt's directory (`Attempt`): only
the maker of the claim runs the payload, whatever Aurora starts again, and the exit record is the
evidence of the end. The scheduler says the rest: what waits and why, and what is gone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from wlm_tasks.compute import evidence
from wlm_tasks.compute.attempt import Claim, ExitRecord
from wlm_tasks.compute.aurora import generations as tasks_of
from wlm_tasks.compute.aurora.client import CONNECT_S, READ_S, AuroraClient
from wlm_tasks.compute.aurora.generations import Generation
from wlm_tasks.compute.aurora.job import configuration, native_id
from wlm_tasks.compute.aurora.links import links_of
from wlm_tasks.compute.aurora.notes import Notes, Patience
from wlm_tasks.compute.aurora.options import AuroraOptions
from wlm_tasks.compute.aurora.scheduler import Scheduler
from wlm_tasks.compute.base import (
    CANCEL_WAIT_S,
    ComputeBackend,
    JobRef,
    JobSpec,
    JobState,
    JobStatus,
    SiteLoad,
    Submitted,
)
from wlm_tasks.compute.job_script import render
from wlm_tasks.compute.local import LocalBackend, translated
from wlm_tasks.errors import (
    BackendUnavailableError,
    JobCancelledError,
    JobRejectedError,
    JobUndecidedError,
    PermanentError,
)

_log = logging.getLogger(__name__)
#: between two looks whether a job is gone, in seconds
_FIRST_LOOK_S: Final = 0.05
_SLOWEST_LOOK_S: Final = 1.0
#: longest wait for a page's address, in seconds
_LINK_S: Final = 2.0
#: and for the count of the role's tasks: a poll is not to last longer than its lease for that
_COUNT_S: Final = 5.0
_NOT_SUBMITTED: Final = JobStatus(state=JobState.UNKNOWN, reason="not submitted yet")
#: of a job that Aurora has no longer
NOT_LISTED: Final = (
    "Aurora no longer lists it: somebody ended it while it waited, or its history was pruned;"
)
_NEVER_STARTED: Final = JobStatus(
    state=JobState.LOST, reason=f"{NOT_LISTED} its payload was never started"
)


class AuroraBackend(ComputeBackend):
    """Runs jobs by an Aurora scheduler; `scratch` is one directory on workers and agents alike."""

    def __init__(
        self,
        *,
        name: str,
        scratch: str,
        options: Mapping[str, object],
        bells: str | None = None,
        patience: Patience | None = None,
        connect_s: float = CONNECT_S,
        read_s: float = READ_S,
    ) -> None:
        self.name = name
        self._options = AuroraOptions.of(name, options)
        self._client = AuroraClient(self._options, connect_s=connect_s, read_s=read_s)
        self._scheduler = Scheduler(self._options, self._client)
        self._files = LocalBackend(name=name, scratch=scratch, options={}, bells=bells)
        self._bells = bells
        self._counting = AuroraClient(
            self._options, connect_s=min(connect_s, _COUNT_S), read_s=min(read_s, _COUNT_S)
        )
        self._polled: frozenset[str] | None = None
        self._uncounted = False
        self._patience = patience or Patience(deadline_s=connect_s + read_s)

    def prepare(
        self,
        workdir: str,
        token: str | None = None,
        *,
        disk_mb: int | None = None,
        mark: int | None = None,
    ) -> None:
        """Make the experiment's directory, check that it takes files and hard links."""
        self._files.prepare(workdir, token, disk_mb=disk_mb, mark=mark)

    @translated
    def submit(self, spec: JobSpec) -> Submitted:
        """Create the job unless its claim, or a task of it, is there.

        Raises `JobUndecidedError` when the outcome of this or an earlier call is not known yet.
        """
        self._files.check_inside(spec.ref.workdir)
        job = configuration(self._options, spec)
        texts = self._texts(spec)
        if not Path(spec.ref.workdir).is_dir():
            raise JobRejectedError(f"{spec.ref.workdir}: no such directory, was it prepared?")
        notes = Notes(spec.ref, self._patience)
        with notes.locked():
            if notes.cancelled:
                raise JobCancelledError(f"job {spec.ref.token} was cancelled before it started")
            if not self._exists(notes):
                self._check_never_sent(notes)
                for name, text in texts.items():
                    notes.write(name, text)
                self._create(notes, job)
            self._note_made(notes)
            notes.forget_sending()
        return Submitted(native_id=native_id(self._options, spec.ref.token))

    def _texts(self, spec: JobSpec) -> dict[str, str]:
        """Return what the attempt's directory must hold before the job is created."""
        return {"payload.sh": f"{spec.script}\n", "job.sh": render(spec, bells=self._bells)}

    def _exists(self, notes: Notes) -> bool:
        return notes.claim() is not None or bool(self._look(notes.ref.token))

    def _note_made(self, notes: Notes) -> None:
        """Note that Aurora has the job; here the claim does, once it runs."""

    def _check_never_sent(self, notes: Notes) -> None:
        if notes.was_sent and not notes.is_absent():
            raise JobUndecidedError(
                f"job {notes.ref.token}: Aurora does not list it, but may be about to create it"
            )

    def _create(self, notes: Notes, job: Any) -> None:
        """Call createJob; returns if the job exists then, whoever created it."""
        token = notes.ref.token
        notes.begin_sending()
        try:
            self._scheduler.create(job)
        except JobUndecidedError:
            if not self._look(token):
                raise
        except (BackendUnavailableError, PermanentError) as error:
            # one of them may say that there is such a job already
            if isinstance(error, PermanentError) and self._look(token):
                return
            notes.forget_sending()
            raise

    @translated
    def status(self, refs: Sequence[JobRef]) -> dict[str, JobStatus]:
        """Judge by the files where they suffice, else by one request for all other jobs."""
        result: dict[str, JobStatus] = {}
        open_ones: list[Notes] = []
        for ref in refs:
            try:
                notes = Notes(ref, self._patience)
                status = _by_files(notes)
            except (BackendUnavailableError, PermanentError) as error:
                status = JobStatus(state=JobState.UNKNOWN, reason=str(error))
            if status is None:
                open_ones.append(notes)
            else:
                result[ref.token] = status
        found = self._scheduler.tasks({notes.ref.token for notes in open_ones})
        for notes in open_ones:
            token = notes.ref.token
            result[token] = self._judge(notes, found[token])
        self._polled = frozenset(ref.token for ref in refs)
        return self._with_reasons(result, found)

    def load(self) -> SiteLoad | None:
        """Count the role's live tasks in one request; None if that fails.

        After a poll ours are those of the jobs it asked about, else those that look like ours.
        """
        polled, self._polled = self._polled, None
        try:
            load = Scheduler(self._options, self._counting).load(polled)
        except (BackendUnavailableError, PermanentError) as error:
            # the poll has told how the site stands; this is no more than a courtesy
            if not self._uncounted:
                _log.warning("site %s: its jobs are not counted: %s", self.name, error.message)
            self._uncounted = True
            return None
        self._uncounted = False
        return load

    def _judge(self, notes: Notes, found: Sequence[Generation]) -> JobStatus:
        """Return the state of a job that has no exit record, as far as we saw."""
        try:
            if (claim := notes.claim()) is None:
                if (status := self._unclaimed(notes, found)) is not None:
                    return status
                claim = notes.claim()
            return _claimed(notes, claim, found)
        except (BackendUnavailableError, OSError) as error:
            return JobStatus(state=JobState.UNKNOWN, reason=str(error))

    def _unclaimed(self, notes: Notes, found: Sequence[Generation]) -> JobStatus | None:
        """Judge a job whose payload was not started; None if it has been meanwhile."""
        if not found:
            return self._missing(notes)
        status = tasks_of.unclaimed(found)
        if status.state in {JobState.FAILED, JobState.LOST} and not _closed(notes):
            return None
        return status

    def _missing(self, notes: Notes) -> JobStatus | None:
        """Judge a job that Aurora does not list; None if its payload was started meanwhile."""
        if notes.ref.native_id is None:
            return _NOT_SUBMITTED
        with notes.locked():
            if not notes.is_absent():
                return JobStatus(state=JobState.UNKNOWN, reason="Aurora does not list it")
        return self._absent(notes)

    def _absent(self, notes: Notes) -> JobStatus | None:
        """Judge a job that Aurora certainly does not have, though maybe it had it."""
        return _NEVER_STARTED if _closed(notes) else None

    def _with_reasons(
        self, result: dict[str, JobStatus], found: Mapping[str, Sequence[Generation]]
    ) -> dict[str, JobStatus]:
        """Add why waiting jobs wait, if Aurora says so."""
        waiting = {
            one.task_id: token
            for token, status in result.items()
            if status.state is JobState.PENDING
            for one in found[token]
            if one.status == tasks_of.PENDING
        }
        if not waiting:
            return result
        try:
            reasons = self._scheduler.reasons(waiting.values())
        except (BackendUnavailableError, PermanentError) as error:
            _log.warning("site %s: no reasons for waiting jobs: %s", self.name, error.message)
            return result
        for task_id, token in waiting.items():
            if reason := reasons.get(task_id):
                result[token] = replace(result[token], reason=reason)
        return result

    @translated
    def find(self, ref: JobRef) -> str | None:
        """Return the job's key if it was started, or if Aurora lists it."""
        claim = Notes(ref, self._patience).claim()
        known = claim.pid != 0 if claim is not None else bool(self._look(ref.token))
        return native_id(self._options, ref.token) if known else None

    @translated
    def cancel(self, ref: JobRef, *, wait_s: float = CANCEL_WAIT_S) -> bool:
        """Take the claim if there is none, have the tasks killed, and wait until none is left."""
        self._files.check_inside(ref.workdir)
        notes = Notes(ref, self._patience)
        with notes.locked(wait_s):
            if notes.exit() is not None or self._has_ended(notes):
                return True
            notes.mark_cancelled()
            claim = notes.claim()
        return self._killed(notes, claim, wait_s)

    def _has_ended(self, notes: Notes) -> bool:  # noqa: ARG002 - of those that leave no record here
        """Whether a cancel comes too late for a job without an exit record."""
        return False

    def _killed(self, notes: Notes, claim: Claim | None, wait_s: float) -> bool:
        """Have the tasks killed; True once nothing is left, which is written down then."""
        with suppress(JobUndecidedError):  # looking tells
            self._scheduler.kill(notes.ref.token)
        if not self._await_end(notes, claim, wait_s):
            return False
        with notes.locked(wait_s):
            notes.record_cancelled(claim)
        return True

    def _await_end(self, notes: Notes, claim: Claim | None, wait_s: float) -> bool:
        """Look until nothing of the job runs or can run; a killed task that waited is deleted."""
        deadline = time.monotonic() + wait_s
        pause = _FIRST_LOOK_S
        while True:
            found = self._look(notes.ref.token)
            if notes.exit() is not None:
                return True
            if all(one.ended for one in found):
                return self._surely_over(notes, claim, found)
            if time.monotonic() + pause > deadline:
                return False
            time.sleep(pause)
            pause = min(1.5 * pause, _SLOWEST_LOOK_S)

    def _surely_over(self, notes: Notes, claim: Claim | None, found: Sequence[Generation]) -> bool:
        """Whether nothing of a job runs of which no task is active any more."""
        if claim is None or claim.pid == 0:
            return True
        return tasks_of.confirmed(found) or notes.limit_over(claim)

    def tail(self, ref: JobRef, stream: str, lines: int) -> str:
        """Return the last lines, from the attempt's directory."""
        return self._files.tail(ref, stream, lines)

    def url(self, path: str) -> str:
        """Return the path as a ``file://`` URL: workers see the scratch directory themselves."""
        return self._files.url(path)

    def discard(self, workdir: str, mark: int | None = None) -> bool:
        """Remove the directory and what is in it."""
        return self._files.discard(workdir, mark)

    def caveats(self) -> tuple[str, ...]:
        """Return what a test on one agent cannot show of the others."""
        return (
            "every agent must see the scratch directory under this path: without its claim a task"
            " that Aurora starts again would run twice; only the agent of this test is shown to",
        )

    def links(self, ref: JobRef) -> dict[str, str]:
        """Return the job's pages at Aurora and, once it is on an agent, at Mesos."""
        found: Sequence[Generation] = ()
        if self._options.mesos_url:
            # nobody is to wait long for a link
            client = AuroraClient(self._options, connect_s=_LINK_S, read_s=_LINK_S)
            with suppress(BackendUnavailableError, PermanentError):
                found = Scheduler(self._options, client).tasks({ref.token})[ref.token]
            client.close()
        return links_of(self._options, ref.token, found)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
        self._counting.close()

    def _look(self, token: str) -> list[Generation]:
        return self._scheduler.tasks({token})[token]


def _by_files(notes: Notes) -> JobStatus | None:
    """Return the state if the files tell it."""
    record = notes.exit()
    return None if record is None else _ended(notes, record)


def _ended(notes: Notes, record: ExitRecord) -> JobStatus:
    return evidence.ended(record, cancelled=notes.cancelled)


def _claimed(notes: Notes, claim: Claim | None, found: Sequence[Generation]) -> JobStatus:
    """Judge a job whose claim is made and that has no exit record, as far as we saw."""
    if claim is None or claim.pid == 0:  # closed, so the payload never starts
        if notes.cancelled and all(one.ended for one in found):
            return JobStatus(state=JobState.CANCELLED, reason="cancelled")
        return tasks_of.unclaimed(found) if found else _NEVER_STARTED
    status = tasks_of.claimed(
        found, since=claim.epoch or None, limit_over=lambda: notes.limit_over(claim)
    )
    record = notes.exit()  # it may have come after the first look for it
    return status if record is None else _ended(notes, record)


def _closed(notes: Notes) -> bool:
    """Take the claim so that the payload never starts; False if it has started meanwhile."""
    with notes.locked():
        claim = notes.close()
    return claim is not None and claim.pid == 0
