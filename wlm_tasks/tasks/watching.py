"""Looking after jobs: one poll for all jobs of a site, and cancels until they are confirmed."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, cast

from celery import Task

from wlm_tasks.celery import WlmCelery, app
from wlm_tasks.compute.base import CANCEL_WAIT_S, JobRef
from wlm_tasks.errors import BackendUnavailableError, InputError, ServiceError, WlmError
from wlm_tasks.model.experiment import Experiment
from wlm_tasks.runtime import Runtime
from wlm_tasks.scheduler.chain import send
from wlm_tasks.state.advance import NextStep
from wlm_tasks.state.jobs import LiveJob
from wlm_tasks.state.reports import JobReport
from wlm_tasks.tasks.perform import job_ref, job_report

_log = logging.getLogger(__name__)
#: Reports written in one transaction.
_BATCH = 200


@app.task(bind=True, shared=False, name="wlm.poll")
def poll(self: Task[Any, Any], site: str, tokens: list[str] | None = None) -> str:
    """Ask a site about all its jobs, or about some, and record what it says."""
    celery_app = cast(WlmCelery, self.app)
    error: str | None = None
    ready: list[NextStep] = []
    try:
        ready = poll_site(celery_app.runtime, site, tokens)
    except (BackendUnavailableError, InputError) as problem:
        # A site that cannot be asked fails no job; the next poll asks again.
        _log.warning("site %s: %s", site, problem.message)
        error = problem.message
    if tokens is None:
        celery_app.runtime.store.coordination.poll_done(site, error)
    try:
        send(celery_app, ready)
    except ServiceError as problem:
        _log.warning("site %s: %d chains not sent: %s", site, len(ready), problem)
    return error or f"{len(ready)} jobs led on"


def poll_site(runtime: Runtime, name: str, tokens: Sequence[str] | None) -> list[NextStep]:
    """One request to the site for all its jobs; returns the steps whose chains are to be sent."""
    found = runtime.store.jobs.live(name, tokens)
    experiments = {job.token: one for job in found if (one := _experiment(job)) is not None}
    live = [job for job in found if job.token in experiments]
    if not live:
        return []
    statuses = runtime.site(name).backend.status(
        [job_ref(job.token, job.workdir, experiments[job.token], job.native_id) for job in live]
    )
    reports: list[JobReport] = []
    for job in live:
        status = statuses.get(job.token)
        report = job_report(job.token, status, experiments[job.token]) if status else None
        if report and (report.state, report.reason) != (job.state, job.reason):
            reports.append(report)
    ready: list[NextStep] = []
    for start in range(0, len(reports), _BATCH):
        ready += runtime.store.jobs.record(reports[start : start + _BATCH])
    return ready


def _experiment(job: LiveJob) -> Experiment | None:
    """The experiment of a job; None if another version wrote it, which must not stop the others."""
    try:
        return Experiment.from_stored(job.spec)
    except InputError as error:
        _log.warning("%s: stored by another version: %s", job.experiment_id, error.message)
        return None


def _ref(job: LiveJob) -> JobRef:
    """The job's name on its site, with the usual way to stop it if nothing else is known."""
    experiment = _experiment(job)
    if experiment is None:
        return JobRef(token=job.token, workdir=job.workdir, native_id=job.native_id)
    return job_ref(job.token, job.workdir, experiment, job.native_id)


@app.task(bind=True, shared=False, name="wlm.cancel")
def cancel(self: Task[Any, Any], experiment_id: str) -> str:
    """End an experiment's jobs and record that they are gone."""
    celery_app = cast(WlmCelery, self.app)
    ended = cancel_jobs(celery_app.runtime, experiment_id)
    return "confirmed" if ended else "not confirmed yet"


def cancel_jobs(runtime: Runtime, experiment_id: str, *, wait_s: float = CANCEL_WAIT_S) -> bool:
    """End every job of the experiment; True once the sites confirmed that none is left.

    Waits `wait_s` seconds at most for the end of each; control asks again until it is confirmed.
    """
    gone: list[str] = []
    by_site: dict[str, list[LiveJob]] = defaultdict(list)
    live = runtime.store.jobs.to_end(experiment_id)
    for job in live:
        by_site[job.site].append(job)
    for site, jobs in by_site.items():
        try:
            backend = runtime.site(site).backend
            gone.extend(job.token for job in jobs if backend.cancel(_ref(job), wait_s=wait_s))
        except WlmError as error:
            _log.warning("%s: cancel at %s: %s", experiment_id, site, error.message)
    runtime.store.jobs.cancelled(experiment_id, gone)
    return len(gone) == len(live)
