"""Limits: which held steps may start, and which members of a sweep must not start any more.

All of it is asked every tick or oftener, so every query here begins at what is open (held steps,
live jobs, members that wait) and never at what has ended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Connection, exists, func, select

from wlm_tasks.model.sites import OPEN
from wlm_tasks.model.states import FINAL, ExperimentState, StepState
from wlm_tasks.model.steps import StepName
from wlm_tasks.state.advance import advance, literal_states
from wlm_tasks.state.politeness import SUBMIT_QUEUE, SiteLimits, let_go, submits
from wlm_tasks.state.schema import OF_SWEEP, experiments, is_open, steps, sweeps
from wlm_tasks.state.site_rows import SiteRow
from wlm_tasks.state.sites import closed_sites, was_claimed

#: What has not ended. `NOT IN` it keeps a database from going through all that has.
NOT_FINAL: Final = [state.value for state in ExperimentState if state not in FINAL]
#: Sweeps with members that wait; found by the index of members by state.
_WAITING_SWEEPS = (
    select(experiments.c.sweep_id)
    .where(OF_SWEEP, experiments.c.state == ExperimentState.QUEUED.value)
    .distinct()
)

#: Never claimed, and moved once at most: by its release, not by a cancel and then a retry.
_NEVER_RETRIED = (steps.c.attempt == 0) & (steps.c.epoch < 2)  # noqa: PLR2004


#: Steps that a site's trouble held and that go on in one go when it is over.
_BATCH: Final = 200


def releasable(connection: Connection, limits: Mapping[str, SiteLimits]) -> list[Any]:
    """Held steps that their site's state and their site's and sweep's limits let start now."""
    closed = closed_sites(connection)
    found: list[Any] = []
    for site in submits(connection, is_open("HELD")).keys() & limits.keys() - closed.keys():
        found += let_go(connection, site, limits[site])
    return [*found, *_held_up(connection, closed), *_of_sweeps(connection)]


def count_hopeful(connection: Connection) -> int:
    """How many held steps may start any moment: not those whose site takes no work."""
    closed = closed_sites(connection)
    held = select(func.count()).select_from(steps).where(is_open("HELD"))
    if closed:
        by_sweep = (steps.c.seq == 0) & ~was_claimed()
        held = held.join(experiments, experiments.c.id == steps.c.experiment_id).where(
            _site_is_open(closed) | by_sweep
        )
    return connection.execute(held).scalar_one()


def _site_is_open(closed: Mapping[str, SiteRow]) -> Any:
    """True for steps whose site lets them begin; one that is only paused gives outputs back."""
    paused = [name for name, row in closed.items() if row.state in OPEN]
    return experiments.c.site.not_in(list(closed)) | (
        experiments.c.site.in_(paused) & (steps.c.name == StepName.STAGE_OUT.value)
    )


def _held_up(connection: Connection, closed: Mapping[str, SiteRow]) -> list[Any]:
    """Steps but submits that a site's trouble held, now that it is over."""
    return list(
        connection.execute(
            select(steps.c.experiment_id, steps.c.seq)
            .join_from(steps, experiments, experiments.c.id == steps.c.experiment_id)
            .where(
                is_open("HELD"),
                was_claimed(),
                steps.c.queue != SUBMIT_QUEUE,
                _site_is_open(closed),
            )
            .order_by(steps.c.priority.desc(), steps.c.ready_at, steps.c.experiment_id)
            .limit(_BATCH)
            .with_for_update(of=steps, skip_locked=True)
        ).all()
    )


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
            .where(is_open("HELD"), steps.c.seq == 0, ~was_claimed(), *of_sweep)
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
