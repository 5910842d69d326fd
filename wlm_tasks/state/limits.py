"""Limits: which held steps may start, and which members of a sweep must not start any more.

All of it is asked every tick or oftener, so every query here begins at what is open (held steps,
live jobs, members that wait) and never at what has ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, exists, func, select

from wlm_tasks.model.states import FINAL, ExperimentState, StepState
from wlm_tasks.model.steps import QUEUES, StepName
from wlm_tasks.state.advance import advance, literal_states
from wlm_tasks.state.schema import (
    IS_LIVE,
    IS_READY,
    OF_SWEEP,
    experiments,
    is_open,
    jobs,
    steps,
    sweeps,
)

#: What has not ended. `NOT IN` it keeps a database from going through all that has.
NOT_FINAL: Final = [state.value for state in ExperimentState if state not in FINAL]
_SUBMIT_QUEUE = QUEUES[StepName.SUBMIT]
#: Sweeps with members that wait; found by the index of members by state.
_WAITING_SWEEPS = (
    select(experiments.c.sweep_id)
    .where(OF_SWEEP, experiments.c.state == ExperimentState.QUEUED.value)
    .distinct()
)

#: Never claimed, and moved once at most: by its release, not by a cancel and then a retry.
_NEVER_RETRIED = (steps.c.attempt == 0) & (steps.c.epoch < 2)  # noqa: PLR2004


def releasable(connection: Connection, max_running: Mapping[str, int | None]) -> list[Any]:
    """Held steps that their site's and their sweep's limits let start now."""
    return [*_of_sites(connection, max_running), *_of_sweeps(connection)]


def release(connection: Connection, rows: Sequence[Any]) -> int:
    """Make these held steps ready; returns how many."""
    for row in rows:
        advance(
            connection,
            row.experiment_id,
            row.seq,
            StepState.READY,
            quiet=True,
            ready_at=True,
            sent_at=None,
            reason=None,
        )
    return len(rows)


def _submits(connection: Connection, condition: Any) -> dict[str, int]:
    """How many submit steps each site has of which this is true."""
    rows = connection.execute(
        select(experiments.c.site, func.count())
        .join_from(steps, experiments, experiments.c.id == steps.c.experiment_id)
        .where(condition, steps.c.queue == _SUBMIT_QUEUE)
        .group_by(experiments.c.site)
    )
    return {str(site): int(count) for site, count in rows}


def _of_sites(connection: Connection, max_running: Mapping[str, int | None]) -> list[Any]:
    """Submit steps that their sites have room for, the most urgent first."""
    found: list[Any] = []
    for site in _submits(connection, is_open("HELD")).keys() & max_running.keys():
        limit = max_running[site]
        free = None if limit is None else limit - _taken(connection, site)
        if free is not None and free <= 0:
            continue
        found += connection.execute(
            select(steps.c.experiment_id, steps.c.seq)
            .join_from(steps, experiments, experiments.c.id == steps.c.experiment_id)
            .where(
                is_open("HELD"),
                steps.c.queue == _SUBMIT_QUEUE,
                experiments.c.site == site,
            )
            .order_by(steps.c.priority.desc(), steps.c.ready_at, steps.c.experiment_id)
            .limit(free)
            .with_for_update(of=steps, skip_locked=True)
        ).all()
    return found


def _taken(connection: Connection, site: str) -> int:
    """Places of a site that are used: live jobs, and submits on their way without a job yet."""
    has_job = exists().where(IS_LIVE, jobs.c.experiment_id == steps.c.experiment_id)
    live: int = connection.execute(
        select(func.count()).select_from(jobs).where(IS_LIVE, jobs.c.site == site)
    ).scalar_one()
    ready = _submits(connection, IS_READY)
    running = _submits(connection, is_open("RUNNING") & ~has_job)
    return live + ready.get(site, 0) + running.get(site, 0)


def _of_sweeps(connection: Connection) -> list[Any]:
    """First steps that their sweeps have room for, in the order of the members."""
    found: list[Any] = []
    limited = connection.execute(
        select(sweeps.c.id, sweeps.c.max_active).where(
            sweeps.c.max_active.is_not(None), sweeps.c.id.in_(_WAITING_SWEEPS)
        )
    ).all()
    for sweep in limited:
        of_sweep = (OF_SWEEP, experiments.c.sweep_id == sweep.id)
        held = (
            select(steps.c.experiment_id, steps.c.seq)
            .join_from(steps, experiments, experiments.c.id == steps.c.experiment_id)
            .where(is_open("HELD"), steps.c.seq == 0, *of_sweep)
        )
        not_ended = connection.execute(
            select(func.count())
            .select_from(experiments)
            .where(*of_sweep, experiments.c.state.in_(NOT_FINAL))
        ).scalar_one()
        waiting = connection.execute(select(func.count()).select_from(held.subquery())).scalar_one()
        free = sweep.max_active - (not_ended - waiting)
        if free > 0 and waiting:
            found += connection.execute(
                held.order_by(experiments.c.member)
                .limit(free)
                .with_for_update(of=steps, skip_locked=True)
            ).all()
    return found


def members_to_stop(connection: Connection, limit: int) -> list[str]:
    """Members that have not started in sweeps that stop at the first failure and had one."""
    failed = experiments.alias("failed")
    had_one = exists().where(
        failed.c.sweep_id == sweeps.c.id,
        failed.c.state.in_(literal_states(ExperimentState.FAILED)),
    )
    stopped = connection.execute(
        select(sweeps.c.id).where(
            sweeps.c.stop_on_failure, sweeps.c.id.in_(_WAITING_SWEEPS), had_one
        )
    ).scalars().all()  # fmt: skip
    if not stopped:
        return []
    return list(
        connection.execute(
            select(experiments.c.id)
            .join_from(experiments, steps, steps.c.experiment_id == experiments.c.id)
            .where(
                OF_SWEEP,
                experiments.c.state == ExperimentState.QUEUED.value,
                experiments.c.sweep_id.in_(stopped),
                steps.c.seq == 0,
                _NEVER_RETRIED,
            )
            .limit(limit)
        ).scalars()
    )
