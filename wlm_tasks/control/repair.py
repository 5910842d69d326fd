"""Settling what needs a person: asking the sites again, and acting on what a person says."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from wlm_tasks.compute.base import JobRef, JobState
from wlm_tasks.errors import InputError, StepError, WlmError
from wlm_tasks.model.experiment import Experiment
from wlm_tasks.model.sites import SILENT
from wlm_tasks.model.states import JobRecord
from wlm_tasks.model.steps import STEP_QUEUES
from wlm_tasks.runtime import Runtime
from wlm_tasks.state.advance import NextStep
from wlm_tasks.state.repair import Case, Kind
from wlm_tasks.state.reports import JobReport
from wlm_tasks.tasks.perform import job_ref
from wlm_tasks.tasks.polling import look_at_jobs
from wlm_tasks.tasks.watching import cancel_jobs


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a site says of a job when it is asked once more."""

    text: str
    native_id: str | None = None  #: of an undecided job that is there after all
    state: JobState | None = None  #: of a job that was taken
    gone: bool = False  #: an orphan's end is confirmed

    @property
    def knows_it(self) -> bool:
        """Whether the site knows the job."""
        return self.native_id is not None or self.state not in (None, JobState.UNKNOWN)


def ask(runtime: Runtime, case: Case) -> Answer:
    """Ask the site about a job; changes nothing."""
    if runtime.store.sites.get(case.site).state in SILENT:
        return Answer(text="cannot be asked now; see: wlm sites")
    try:
        backend, ref = runtime.site(case.site).backend, _ref(runtime, case)
        if case.kind is Kind.UNDECIDED:
            native_id = backend.find(ref)
            text = "knows no such job" if native_id is None else f"has it as {native_id}"
            return Answer(text=text, native_id=native_id)
        status = backend.status([ref])[case.token]
    except WlmError as error:
        return Answer(text=f"cannot be asked: {error.message}")
    said = f": {status.reason}" if status.reason else ""
    return Answer(text=f"says {str(status.state).lower()}{said}", state=status.state)


def look(runtime: Runtime, case: Case, who: str) -> tuple[Answer, list[NextStep]]:
    """Ask the site, and write down what it says; also returns steps that may go on."""
    if case.kind is Kind.ORPHAN:
        gone = cancel_jobs(runtime, case.experiment_id)
        text = "confirms that it is gone" if gone else "does not confirm that it is gone"
        return Answer(text=text, gone=gone), []
    answer = ask(runtime, case)
    if answer.native_id is not None:
        _adopt(runtime, case, answer.native_id, who)
    elif answer.knows_it:
        return answer, look_at_jobs(runtime, case.site, [case.token]).ready
    return answer, []


def adopt(runtime: Runtime, case: Case, native_id: str, who: str) -> None:
    """The job exists under this id: watch it.

    Raises `IllegalTransitionError` if it is settled already, and `InputError` if the site has the
    job under another id.
    """
    with suppress(StepError):  # a site that cannot be asked contradicts nobody
        found = runtime.site(case.site).backend.find(_ref(runtime, case))
        if found not in (None, native_id):
            raise InputError(
                f"--adopt: got {native_id!r}, expected {found!r}: so site {case.site} says"
            )
    _adopt(runtime, case, native_id, who)


def _adopt(runtime: Runtime, case: Case, native_id: str, who: str) -> None:
    if case.kind is Kind.UNDECIDED:
        claim = runtime.store.repair.take(case, who=who, lease_s=runtime.settings.steps.lease_s)
        runtime.store.jobs.submitted(claim, case.token, native_id)
    else:
        runtime.store.repair.rename(case, native_id)


def bar(runtime: Runtime, case: Case) -> str | None:
    """See to it that the job never starts, or ends; None once the site confirmed it, else why not.

    To be done before a job is declared absent: what comes late to a site would run beside its
    successor.
    """
    try:
        if runtime.site(case.site).backend.cancel(_ref(runtime, case)):
            return None
    except WlmError as error:
        return error.message
    return "it has not confirmed that the job is gone; try again in a moment"


def absent(runtime: Runtime, case: Case, who: str) -> list[NextStep]:
    """The job does not exist: go on without it; returns steps that may go on.

    Raises `IllegalTransitionError` if it is settled already.
    """
    if case.kind is Kind.UNDECIDED:
        runtime.store.repair.absent(case, who=who)
        return []
    reason = f"gone without a trace, says {who}"
    if case.kind is Kind.ORPHAN:
        runtime.store.jobs.cancelled(case.experiment_id, [case.token], reason)
        return []
    gone = JobReport(
        token=case.token,
        state=JobRecord.LOST,
        reason=reason,
        max_jobs=_experiment(runtime, case).retry.jobs,
    )
    return runtime.store.jobs.record([gone])


def compare_queues(runtime: Runtime, messages: dict[str, int | None]) -> dict[str, int]:
    """By queue how many messages are missing of those that the rows say were sent."""
    upkeep, grace_s = runtime.store.upkeep, runtime.settings.control.grace_s
    missing = {
        queue: upkeep.count_sent(queue, grace_s) - (messages.get(queue) or 0)
        for queue in STEP_QUEUES
    }
    return {queue: count for queue, count in missing.items() if count > 0}


def _experiment(runtime: Runtime, case: Case) -> Experiment:
    return Experiment.from_stored(runtime.store.views.spec(case.experiment_id))


def _ref(runtime: Runtime, case: Case) -> JobRef:
    experiment = _experiment(runtime, case)
    return job_ref(case.token, case.workdir, experiment, case.native_id, case.array)
