"""The work of each step: one idempotent thing with one backend."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property

from wlm_tasks.compute.base import ENDED, JobRef, JobSpec, JobState, JobStatus
from wlm_tasks.config import SiteSettings
from wlm_tasks.errors import JobRejectedError
from wlm_tasks.model.arrays import InArray
from wlm_tasks.model.experiment import Experiment, Transfer
from wlm_tasks.model.script import payload_script
from wlm_tasks.model.states import JobRecord
from wlm_tasks.model.steps import StepName
from wlm_tasks.runtime import Runtime, Site
from wlm_tasks.scheduler.plan import plan
from wlm_tasks.state.advance import NextStep
from wlm_tasks.state.claims import Claim, Holder
from wlm_tasks.state.intents import Held, Intent, job_token
from wlm_tasks.state.politeness import SiteLimits
from wlm_tasks.state.reports import JobReport
from wlm_tasks.storage.base import TransferControl
from wlm_tasks.tasks.moving import Mover
from wlm_tasks.tasks.patience import patiently

#: Seconds between two saves of a transfer's progress.
_PROGRESS_EVERY_S = 1.0


@dataclass(frozen=True)
class Done:
    """The step's work is done; the row is still to be written."""


@dataclass(frozen=True)
class Sliced:
    """The slice is over before the work; this is how far it got."""

    progress: str


@dataclass(frozen=True)
class Recorded:
    """The step wrote its own row; what comes next, if anything does now."""

    following: NextStep | Claim | None
    reached: bool = True  #: whether it got through to its site


Outcome = Done | Sliced | Recorded


@dataclass(frozen=True, kw_only=True)
class Work:
    """One claimed step with all that its work needs."""

    runtime: Runtime
    experiment: Experiment
    claim: Claim
    deadline: float  #: end of the slice on the monotonic clock
    progress: dict[str, int]  #: where an earlier slice got to
    carry_on: Holder | None
    holder: Holder  #: in whose name others may be claimed along with the step
    #: keeps such a claim alive, and shows its step as a task
    beside: Callable[[Claim], AbstractContextManager[None]]

    @property
    def site(self) -> Site:
        """The experiment's site."""
        return self.runtime.site(self.experiment.site)

    @property
    def workdir(self) -> str:
        """The experiment's directory on its site."""
        return self.site.workdir(self.claim.experiment_id)

    @cached_property
    def segment(self) -> tuple[StepName, ...]:
        """The steps that follow one another without a wait, this one among them."""
        return next(part for part in plan(self.experiment).segments if self.claim.name in part)

    def should_stop(self) -> bool:
        """Whether the slice is over, the claim lost or the process about to stop."""
        return (
            time.monotonic() >= self.deadline
            or self.claim.lost.is_set()
            or self.runtime.stopping.is_set()
        )


def setup(work: Work) -> Outcome:
    """Make the experiment's directory."""
    work.site.backend.prepare(work.workdir, job_token(work.claim.experiment_id, 1))
    return Done()


def stage_in(work: Work) -> Outcome:
    """Bring every input to the experiment's directory."""
    if work.site.backend.carries_files:
        return Done()
    return _transfer_all(work, work.experiment.inputs, _mover(work).bring)


def stage_out(work: Work) -> Outcome:
    """Bring every output to where its owner wants it."""
    if work.site.backend.carries_files:
        return Done()
    return _transfer_all(work, work.experiment.outputs, _mover(work).take)


def _mover(work: Work) -> Mover:
    return Mover(work.runtime.settings, work.site.backend.files, work.workdir)


def _transfer_all(
    work: Work,
    transfers: Sequence[Transfer],
    move: Callable[[Transfer, TransferControl], bool],
) -> Outcome:
    """Move one file after the other until the slice is over. Files before `index` are verified."""
    claims, lease_s = work.runtime.store.claims, work.runtime.settings.steps.lease_s
    saved_at = time.monotonic()

    def state(index: int, done: int, total: int) -> str:
        return json.dumps({"file": index, "files": len(transfers), "bytes": done, "total": total})

    for index in range(work.progress.get("file", 0), len(transfers)):
        latest = [0, 0]

        def note(done: int, total: int, index: int = index, latest: list[int] = latest) -> None:
            nonlocal saved_at
            latest[:] = [done, total]
            if time.monotonic() - saved_at >= _PROGRESS_EVERY_S:
                saved_at = time.monotonic()
                claims.progress(work.claim, state(index, done, total), lease_s)

        control = TransferControl(
            should_stop=work.should_stop,
            progress=note,
            sha256=transfers[index].sha256,
            bytes_per_s=work.runtime.settings.staging.bytes_per_s,
        )
        if not move(transfers[index], control):
            return Sliced(state(index, *latest))
        if work.should_stop() and index + 1 < len(transfers):
            return Sliced(state(index + 1, 0, 0))
    return Done()


def submit(work: Work) -> Outcome:
    """Hand the job to the site: intent first, then the site, then the record."""
    books, claim = work.runtime.store.jobs, work.claim
    patience_s = work.runtime.settings.steps.slice_s
    intent: Intent | Held = claim.intent or patiently(
        lambda: books.intend(
            claim,
            site=work.experiment.site,
            workdir=work.workdir,
            limits=limits_of(work.site.settings),
        ),
        patience_s,
    )
    if isinstance(intent, Held):
        return Recorded(None, reached=False)
    try:
        submitted = work.site.backend.submit(job_spec(work.experiment, intent))
    except JobRejectedError as error:
        reason = error.message
        patiently(lambda: books.rejected(claim, intent, reason), patience_s)
        return Recorded(None)
    token, status = intent.token, submitted.status
    report = None if status is None else job_report(token, status, work.experiment)
    following = patiently(
        lambda: books.submitted(
            claim, token, submitted.native_id, report=report, carry_on=work.carry_on
        ),
        patience_s,
    )
    return Recorded(following)


def limits_of(settings: SiteSettings) -> SiteLimits:
    """What a site's settings allow."""
    return SiteLimits(
        max_running=settings.max_running,
        max_queued=settings.max_queued,
        submit_per_s=settings.submit_per_s,
    )


def job_spec(experiment: Experiment, intent: Intent) -> JobSpec:
    """What the site gets to start the job of this token."""
    return JobSpec(
        ref=job_ref(intent.token, intent.workdir, experiment, array=intent.array),
        script=payload_script(experiment),
        resources=experiment.resources,
        variables=experiment.variables,
        name=experiment.name,
        priority=experiment.priority,
        inputs=experiment.inputs,
        outputs=experiment.outputs,
    )


def job_ref(
    token: str,
    workdir: str,
    experiment: Experiment,
    native_id: str | None = None,
    array: InArray | None = None,
) -> JobRef:
    """The name of a job on its site, with how its owner wants it stopped."""
    return JobRef(
        token=token,
        workdir=workdir,
        native_id=native_id,
        array=array,
        stop_signal=experiment.stop.signal,
        stop_grace_s=experiment.stop.grace_s,
    )


_RECORDS = {
    JobState.PENDING: JobRecord.PENDING,
    JobState.RUNNING: JobRecord.RUNNING,
    JobState.SUCCEEDED: JobRecord.SUCCEEDED,
    JobState.FAILED: JobRecord.FAILED,
    JobState.CANCELLED: JobRecord.CANCELLED,
    JobState.LOST: JobRecord.LOST,
}


def job_report(token: str, status: JobStatus, experiment: Experiment) -> JobReport | None:
    """What our books take over of a site's answer; nothing if the site could not tell."""
    record = _RECORDS.get(status.state)
    if record is None:
        return None
    reason: str | None = status.reason or None
    if reason is None and status.state in ENDED - {JobState.SUCCEEDED}:
        reason = f"the job ended {status.state} with exit code {status.exit_code}"
    return JobReport(
        token=token,
        state=record,
        exit_code=status.exit_code,
        started_at=status.started_at,
        ended_at=status.ended_at,
        reason=reason,
        max_jobs=experiment.retry.jobs,
    )


PERFORM: dict[StepName, Callable[[Work], Outcome]] = {
    StepName.SETUP: setup,
    StepName.STAGE_IN: stage_in,
    StepName.SUBMIT: submit,
    StepName.STAGE_OUT: stage_out,
}
