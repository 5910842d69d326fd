"""One look at a site: the states of all its jobs, how busy it is, and how it stands itself."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from wlm_tasks.compute.base import ComputeBackend, JobRef, JobState, JobStatus
from wlm_tasks.config import SiteSettings
from wlm_tasks.errors import InputError, SiteTroubleError, StepError
from wlm_tasks.model.experiment import Experiment
from wlm_tasks.model.sites import (
    OPEN,
    POLL,
    Evidence,
    Polled,
    SiteState,
    poll_pause_s,
    trouble_of,
)
from wlm_tasks.runtime import Runtime
from wlm_tasks.state.advance import NextStep
from wlm_tasks.state.jobs import LiveJob
from wlm_tasks.state.polls import SPACING
from wlm_tasks.state.reports import JobReport
from wlm_tasks.tasks.gate import report
from wlm_tasks.tasks.perform import job_ref, job_report

_log = logging.getLogger(__name__)
#: Reports written in one transaction.
_BATCH = 200
#: A token that no experiment's job has.
_NO_JOB = "wlm-probe-0"
#: Seconds after which a poll is taken over whose worker shows no end of it.
_LEASE_S = 60.0
#: Seconds for which a count of a site's jobs holds submits though it could not be made anew.
_COUNTED_S = 300.0


@dataclass
class Look:
    """What a look at a site led to."""

    ready: list[NextStep] = field(default_factory=list)  #: steps whose chains are to be sent
    changed: bool = False
    soonest_end_s: float | None = None  #: until the first job reaches its time limit


def poll_once(runtime: Runtime, name: str, poller: str) -> tuple[list[NextStep], str | None]:
    """Poll a site in its turn: record what it says of its jobs and of itself.

    `poller` is the id of the message that asks for it. Returns the steps whose chains are to be
    sent, and why nothing was found out, if so.
    """
    books, settings = runtime.store.polls, runtime.settings.sites.get(name)
    least_s = 0.0 if settings is None else min(settings.poll_s, settings.probe_s)
    before_s = books.pace(name)
    if not books.begin(name, poller, spacing_s=least_s * SPACING, lease_s=_LEASE_S):
        books.skipped(name)
        return [], "is polled by another, or was a moment ago"
    started, look = time.monotonic(), Look()
    error, told = None, False
    try:
        with runtime.connections.using(name, watching=True) as error:
            if error is None:
                look = look_at_jobs(runtime, name, None)
                _look_at_site(runtime, name)
    except SiteTroubleError as trouble:
        error, told = trouble.message, True
        report(runtime, name, Evidence(state=trouble_of(trouble), by=POLL, reason=error))
    except (StepError, InputError) as problem:
        # A site that cannot be asked fails no job; the next poll asks again.
        error = problem.message
    pace_s = None
    if settings is not None:
        polled = Polled(
            changed=look.changed,
            took_s=time.monotonic() - started,
            soonest_end_s=look.soonest_end_s,
        )
        pace_s = _pause(polled, before_s, settings)
    if books.done(name, error, pace_s) and error is not None and not told:
        _log.warning("site %s: %s", name, error)
    return look.ready, error


def _pause(polled: Polled, before_s: float | None, settings: SiteSettings) -> float:
    return poll_pause_s(
        polled,
        before_s,
        least_s=settings.poll_s,
        most_s=settings.poll_max_s,
        chance=random.random(),  # noqa: S311 - no secret
    )


def _look_at_site(runtime: Runtime, name: str) -> None:
    """What the site says of itself, now that it has answered."""
    backend, row = runtime.site(name).backend, runtime.store.sites.get(name)
    if row.state not in OPEN and not runtime.store.jobs.live(name):
        _greet(backend, runtime.site(name).workdir("probe"))
    load = backend.load()
    if load is not None:
        runtime.store.sites.counted(
            name, queued=load.queued, running=load.running, foreign=load.foreign
        )
    elif row.load_at is not None:
        runtime.store.sites.not_counted(name, after_s=_COUNTED_S)
    lacking = backend.accounting_trouble()
    state = SiteState.UP if lacking is None else SiteState.ACCOUNTING_DOWN
    # With no step left that met the trouble, it is for the poll to find out its end.
    by = row.found_by if row.found_by and row.probing is None and row.probes else POLL
    if state is not row.state:
        report(runtime, name, Evidence(state=state, by=by, reason=lacking))


def _greet(backend: ComputeBackend, workdir: str) -> None:
    """Ask a site without jobs something: about a job there never was."""
    try:
        backend.find(JobRef(token=_NO_JOB, workdir=workdir))
    except SiteTroubleError:
        raise
    except StepError as error:  # an answer, too
        _log.debug("%s: %s", workdir, error.message)


def look_at_jobs(runtime: Runtime, name: str, tokens: Sequence[str] | None) -> Look:
    """One request to the site for all its jobs, or for some; records what it says."""
    found = runtime.store.jobs.live(name, tokens)
    experiments = {job.token: one for job in found if (one := experiment_of(job)) is not None}
    live = [job for job in found if job.token in experiments]
    if not live:
        return Look()
    statuses = runtime.site(name).backend.status(
        [
            job_ref(job.token, job.workdir, experiments[job.token], job.native_id, job.array)
            for job in live
        ]
    )
    reports: list[JobReport] = []
    for job in live:
        status = statuses.get(job.token)
        found_out = job_report(job.token, status, experiments[job.token]) if status else None
        if found_out and (found_out.state, found_out.reason) != (job.state, job.reason):
            reports.append(found_out)
    states = {job.token: job.state for job in live}
    changed = any(one.state is not states[one.token] for one in reports)
    _note_unknown(runtime, live, statuses)
    ready: list[NextStep] = []
    for start in range(0, len(reports), _BATCH):
        ready += runtime.store.jobs.record(reports[start : start + _BATCH])
    return Look(ready, changed, _soonest_end_s(statuses, experiments))


def _note_unknown(
    runtime: Runtime, live: Sequence[LiveJob], statuses: Mapping[str, JobStatus]
) -> None:
    """Keep since when the site cannot tell about a job."""
    unknown = {
        job.token
        for job in live
        if job.token not in statuses or statuses[job.token].state is JobState.UNKNOWN
    }
    before = {job.token for job in live if job.unknown}
    if unknown != before:
        runtime.store.jobs.unknown(now=unknown - before, no_more=before - unknown)


def _soonest_end_s(
    statuses: Mapping[str, JobStatus], experiments: Mapping[str, Experiment]
) -> float | None:
    ends = [
        status.started_at + experiments[token].resources.walltime_s
        for token, status in statuses.items()
        if status.state is JobState.RUNNING
        and status.started_at is not None
        and token in experiments
        and experiments[token].resources.walltime_s is not None
    ]
    ahead = [end - time.time() for end in ends]
    # what is long over its time shows that clocks differ, or that limits are not kept
    return min((max(s, 0.0) for s in ahead if s > -_OVERDUE_S), default=None)


#: Seconds after its time limit for which a job is still expected to end any moment.
_OVERDUE_S = 60.0


def experiment_of(job: LiveJob) -> Experiment | None:
    """The experiment of a job; None if another version wrote it, which must not stop the others."""
    try:
        return Experiment.from_stored(job.spec)
    except InputError as error:
        _log.warning("%s: stored by another version: %s", job.experiment_id, error.message)
        return None
