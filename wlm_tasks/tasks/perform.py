"""The work of each step: one idempotent thing with one backend."""

from __future__ import annotations

from collections.abc import Callable

from wlm_tasks.compute.base import ENDED, JobRef, JobSpec, JobState, JobStatus, SiteStore
from wlm_tasks.config import SiteSettings
from wlm_tasks.errors import JobRejectedError
from wlm_tasks.hosts.cache import SiteCache
from wlm_tasks.hosts.shell import LocalShell
from wlm_tasks.model.arrays import InArray
from wlm_tasks.model.experiment import Experiment
from wlm_tasks.model.script import payload_script
from wlm_tasks.model.states import JobRecord
from wlm_tasks.model.steps import StepName
from wlm_tasks.runtime import Site
from wlm_tasks.state.intents import Held, Intent, job_token
from wlm_tasks.state.politeness import SiteLimits
from wlm_tasks.state.reports import JobReport
from wlm_tasks.tasks.moving import Mover
from wlm_tasks.tasks.patience import patiently
from wlm_tasks.tasks.staging import transfer_all
from wlm_tasks.tasks.work import Done, Handed, Outcome, Recorded, Work


def setup(work: Work) -> Outcome:
    """Make the experiment's directory, where there must be as much room as it asks for."""
    work.site.backend.prepare(
        work.workdir,
        job_token(work.claim.experiment_id, 1),
        disk_mb=work.experiment.resources.disk_mb,
        mark=work.claim.epoch,
    )
    return Done()


def stage_in(work: Work) -> Outcome:
    """Bring every input to the experiment's directory."""
    if work.site.backend.carries_files:
        return Done()
    return transfer_all(work, work.experiment.inputs, _mover(work).bring)


def stage_out(work: Work) -> Outcome:
    """Bring every output to where its owner wants it."""
    if work.site.backend.carries_files:
        return Done()
    return transfer_all(work, work.experiment.outputs, _mover(work).take)


def _mover(work: Work) -> Mover:
    files = work.site.backend.files
    site = work.site
    return Mover(work.runtime.settings, files, work.workdir, _cache(site, files), site.settings)


def _cache(site: Site, files: SiteStore | None) -> SiteCache | None:
    """The site's cache of inputs, if it is to have one."""
    settings = site.settings
    if settings.cache_mb is None:
        return None
    return SiteCache(
        LocalShell() if files is None else files.shell,
        settings.directory,
        most_bytes=settings.cache_mb * 1024 * 1024,
        link=settings.cache_link,
    )


def submit(work: Work) -> Outcome:
    """Hand the job to the site, after the intent is on the disk."""
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
        return Recorded(reached=False)
    try:
        submitted = work.site.backend.submit(
            job_spec(work.experiment, intent, work.site.settings.prologue)
        )
    except JobRejectedError as error:
        reason = error.message
        patiently(lambda: books.rejected(claim, intent, reason), patience_s)
        return Recorded()
    token, status = intent.token, submitted.status
    report = None if status is None else job_report(token, status, work.experiment)
    return Handed(token, submitted.native_id, report)


def limits_of(settings: SiteSettings) -> SiteLimits:
    """What a site's settings allow."""
    return SiteLimits(
        max_running=settings.max_running,
        max_queued=settings.max_queued,
        submit_per_s=settings.submit_per_s,
    )


def job_spec(experiment: Experiment, intent: Intent, prologue: str | None = None) -> JobSpec:
    """What the site gets to start the job of this token; `prologue` is the site's own."""
    return JobSpec(
        ref=job_ref(intent.token, intent.workdir, experiment, array=intent.array),
        script=payload_script(experiment, prologue),
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
