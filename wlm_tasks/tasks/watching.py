"""Looking after jobs: one poll for all jobs of a site, and cancels until they are confirmed."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, cast

from celery import Task

from wlm_tasks.celery import WlmCelery, app
from wlm_tasks.compute.base import CANCEL_WAIT_S, JobRef
from wlm_tasks.errors import InputError, ServiceError, StepError, WlmError
from wlm_tasks.model.sites import SILENT
from wlm_tasks.runtime import Runtime
from wlm_tasks.scheduler.chain import send
from wlm_tasks.state.advance import NextStep
from wlm_tasks.state.jobs import LiveJob
from wlm_tasks.tasks.perform import job_ref
from wlm_tasks.tasks.polling import experiment_of, look_at_jobs, poll_once

_log = logging.getLogger(__name__)


@app.task(bind=True, shared=False, name="wlm.poll")
def poll(self: Task[Any, Any], site: str, tokens: list[str] | None = None) -> str:
    """Ask a site about all its jobs, or about some, and record what it says."""
    celery_app = cast(WlmCelery, self.app)
    ready: list[NextStep] = []
    error: str | None = None
    if tokens is None:
        ready, error = poll_once(celery_app.runtime, site, str(self.request.id))
    else:
        try:
            ready = poll_site(celery_app.runtime, site, tokens)
        except (StepError, InputError) as problem:
            error = problem.message  # the poll of all of them says it
    try:
        send(celery_app, ready)
    except ServiceError as problem:
        _log.warning("site %s: %d chains not sent: %s", site, len(ready), problem)
    return error or f"{len(ready)} jobs led on"


def poll_site(runtime: Runtime, name: str, tokens: Sequence[str] | None) -> list[NextStep]:
    """One request to the site for all its jobs; returns the steps whose chains are to be sent."""
    return look_at_jobs(runtime, name, tokens).ready


def _ref(job: LiveJob) -> JobRef:
    """The job's name on its site, with the usual way to stop it if nothing else is known."""
    experiment = experiment_of(job)
    if experiment is None:
        return JobRef(
            token=job.token, workdir=job.workdir, native_id=job.native_id, array=job.array
        )
    return job_ref(job.token, job.workdir, experiment, job.native_id, job.array)


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
        if runtime.store.sites.get(site).state in SILENT:
            continue  # it is asked for again and again; the site's return is noticed elsewhere
        try:
            gone += _end_jobs(runtime, site, jobs, wait_s)
        except WlmError as error:
            _log.warning("%s: cancel at %s: %s", experiment_id, site, error.message)
    runtime.store.jobs.cancelled(experiment_id, gone)
    return len(gone) == len(live)


def _end_jobs(runtime: Runtime, site: str, jobs: Sequence[LiveJob], wait_s: float) -> list[str]:
    """Tokens of those that the site confirms as gone; none without a connection to be had."""
    with runtime.connections.using(site, watching=True) as crowded:
        if crowded:
            return []
        backend = runtime.site(site).backend
        return [job.token for job in jobs if backend.cancel(_ref(job), wait_s=wait_s)]
