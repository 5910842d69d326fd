"""How much we ask of a site: caps on its jobs, a rate of submits, and whose turn it is.

All of it is counted in the database, so it holds for the whole fleet. Jobs of the account that
are not ours count, as far as the site tells of them (`ComputeBackend.load`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Row, exists, func, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite

from wlm_tasks.model.sharing import Waiting, share
from wlm_tasks.model.sites import SiteState
from wlm_tasks.model.states import JobRecord
from wlm_tasks.model.steps import QUEUES, StepName
from wlm_tasks.state.schema import (
    IS_LIVE,
    IS_READY,
    db_now,
    experiments,
    is_open,
    jobs,
    sites,
    steps,
)

#: A step gets this epoch at most when it is made ready and claimed for the first time.
_FIRST_CLAIM: Final = 2
SUBMIT_QUEUE: Final = QUEUES[StepName.SUBMIT]
HAS_JOB: Final = exists().where(IS_LIVE, jobs.c.experiment_id == steps.c.experiment_id)


@dataclass(frozen=True, kw_only=True)
class SiteLimits:
    """What we allow ourselves at a site; None: no limit of ours."""

    max_running: int | None = None  #: most jobs of the account, pending and running
    max_queued: int | None = None  #: most of those that wait there
    submit_per_s: float | None = None  #: most submits a second, of all workers together

    def __bool__(self) -> bool:
        return self != NO_LIMIT


NO_LIMIT: Final = SiteLimits()


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What the site's row says; `tokens` as of now."""

    foreign: int = 0
    queued: int = 0
    load_at: float | None = None
    tokens: float | None = None


def refusal(connection: Connection, claim: Any, site: str, limits: SiteLimits) -> str | None:
    """Why a claimed submit has to wait; None if it may go, and then it is counted as gone.

    To be asked and followed by the job's row in one transaction.
    """
    if not limits:
        return None
    if connection.dialect.name == "postgresql":
        # Two submitters count one after the other (SQLite has one writer anyway).
        connection.execute(select(func.pg_advisory_xact_lock(func.hashtext(f"wlm site {site}"))))
    known = _known(connection, site, limits)
    reason = _no_room(connection, site, limits, known, _before(connection, claim, site))
    if reason is None and known.tokens is not None:
        _leave(connection, site, known.tokens - 1.0)
    return reason


def _no_room(
    connection: Connection, site: str, limits: SiteLimits, known: _Known, before: int
) -> str | None:
    """Which limit is reached once so many others had their turn."""
    if limits.max_running is not None:
        taken = count_live(connection, site) + known.foreign
        if taken + before >= limits.max_running:
            return _full("runs as many jobs as it may", limits.max_running, site, known)
    if limits.max_queued is not None:
        queued = _queued(connection, site, known)
        if queued + before >= limits.max_queued:
            return _full("has as many jobs in its queue as it may", limits.max_queued, site, known)
    if known.tokens is not None and known.tokens - before < 1.0:
        return f"site {site}: takes at most {limits.submit_per_s:g} submits a second"
    return None


def _full(what: str, limit: int, site: str, known: _Known) -> str:
    others = f", {known.foreign} of them not ours" if known.foreign else ""
    return f"site {site}: {what} ({limit}{others})"


def let_go(connection: Connection, site: str, limits: SiteLimits) -> list[Row[Any]]:
    """Held submits that the site has room for, in a fair order, locked."""
    with_job = _held(site).where(HAS_JOB)  # their place is taken: trouble came in between
    found = _locked(connection, with_job)
    free = _free(connection, site, limits)
    if free is None:
        return found + _locked(connection, _held(site).where(~HAS_JOB))
    if free <= 0:
        return found
    chosen = share(_waiting(connection, site, free), _using(connection, site), free)
    keys = [(one.experiment_id, one.seq) for one in chosen]
    for start in range(0, len(keys), 300):
        of_these = tuple_(steps.c.experiment_id, steps.c.seq).in_(keys[start : start + 300])
        found += _locked(connection, _held(site).where(of_these))
    return found


def _locked(connection: Connection, held: Any) -> list[Row[Any]]:
    return list(connection.execute(held.with_for_update(of=steps, skip_locked=True)))


def _held(site: str) -> Any:
    return (
        select(steps.c.experiment_id, steps.c.seq)
        .join_from(steps, experiments, experiments.c.id == steps.c.experiment_id)
        .where(is_open("HELD"), steps.c.queue == SUBMIT_QUEUE, experiments.c.site == site)
    )


def _free(connection: Connection, site: str, limits: SiteLimits) -> int | None:
    """Submits there is room for beside those on their way; None for any number."""
    if not limits:
        return None
    room: list[int] = []
    known = _known(connection, site, limits)
    if limits.max_running is not None:
        room.append(limits.max_running - count_live(connection, site) - known.foreign)
    if limits.max_queued is not None:
        room.append(limits.max_queued - _queued(connection, site, known))
    if known.tokens is not None:
        room.append(math.floor(known.tokens))
    ready = submits(connection, IS_READY).get(site, 0)
    running = submits(connection, is_open("RUNNING") & ~HAS_JOB).get(site, 0)
    return min(room) - ready - running


def submits(connection: Connection, condition: Any) -> dict[str, int]:
    """How many submit steps each site has of which this is true."""
    rows = connection.execute(
        select(experiments.c.site, func.count())
        .join_from(steps, experiments, experiments.c.id == steps.c.experiment_id)
        .where(condition, steps.c.queue == SUBMIT_QUEUE)
        .group_by(experiments.c.site)
    )
    return {str(site): int(count) for site, count in rows}


def _waiting(connection: Connection, site: str, free: int) -> list[Waiting]:
    """Who waits without a job; of each owner and priority no more than there are places."""
    place = func.row_number().over(
        partition_by=(steps.c.priority, experiments.c.owner),
        order_by=(steps.c.ready_at, steps.c.experiment_id),
    )
    lines = (
        select(
            steps.c.experiment_id,
            steps.c.seq,
            steps.c.priority,
            steps.c.ready_at,
            experiments.c.owner,
            place.label("place"),
        )
        .join_from(steps, experiments, experiments.c.id == steps.c.experiment_id)
        .where(
            is_open("HELD"),
            steps.c.queue == SUBMIT_QUEUE,
            experiments.c.site == site,
            ~HAS_JOB,
        )
        .subquery()
    )
    rows = connection.execute(select(lines).where(lines.c.place <= free))
    return [
        Waiting(
            experiment_id=row.experiment_id,
            seq=row.seq,
            owner=row.owner,
            priority=row.priority,
            ready_at=row.ready_at or 0.0,
        )
        for row in rows
    ]


def _using(connection: Connection, site: str) -> Mapping[str | None, int]:
    """How many live jobs each owner has at the site."""
    rows = connection.execute(
        select(experiments.c.owner, func.count().label("jobs"))
        .join_from(jobs, experiments, experiments.c.id == jobs.c.experiment_id)
        .where(IS_LIVE, jobs.c.site == site)
        .group_by(experiments.c.owner)
    )
    return {row.owner: row.jobs for row in rows}


def count_live(connection: Connection, site: str) -> int:
    """How many jobs a site has that are not known to have ended."""
    return connection.execute(
        select(func.count()).select_from(jobs).where(jobs.c.site == site, IS_LIVE)
    ).scalar_one()


def _before(connection: Connection, claim: Any, site: str) -> int:
    """Submit steps of the site without a job whose turn is before this one's.

    The more urgent; and for one that comes for the first time those that were held before,
    whether they still are or were let go: their shares have decided whose turn it is.
    """
    urgent, equal = steps.c.priority > claim.priority, steps.c.priority == claim.priority
    held, ready = urgent, urgent
    if claim.epoch <= _FIRST_CLAIM:
        held, ready = urgent | equal, urgent | (equal & (steps.c.epoch >= _FIRST_CLAIM))
    found = 0
    for condition in (IS_READY & ready, is_open("HELD") & held):
        found += connection.execute(
            select(func.count())
            .select_from(steps)
            .join(experiments, experiments.c.id == steps.c.experiment_id)
            .where(condition, steps.c.queue == SUBMIT_QUEUE, experiments.c.site == site, ~HAS_JOB)
        ).scalar_one()
    return found


def _queued(connection: Connection, site: str, known: _Known) -> int:
    """Jobs that wait at the site: as it counted them, and ours that came since."""
    ours = [JobRecord.INTENT.value, JobRecord.PENDING.value]
    since = jobs.c.created_at > (known.load_at or 0.0)
    came: int = connection.execute(
        select(func.count())
        .select_from(jobs)
        .where(jobs.c.site == site, IS_LIVE, jobs.c.state.in_(ours), since)
    ).scalar_one()
    return known.queued + came


def _known(connection: Connection, site: str, limits: SiteLimits) -> _Known:
    row = connection.execute(
        select(
            sites.c.foreign_jobs,
            sites.c.queued,
            sites.c.load_at,
            sites.c.tokens,
            (db_now() - sites.c.tokens_at).label("age"),
        ).where(sites.c.name == site)
    ).one_or_none()
    rate = limits.submit_per_s
    most = None if rate is None else max(1.0, rate)  # at once after a rest: a second's worth
    if row is None:
        return _Known(tokens=most)
    tokens = None
    if rate is not None and most is not None:
        tokens = most if row.age is None else min(most, row.tokens + max(row.age, 0.0) * rate)
    return _Known(
        foreign=row.foreign_jobs or 0,
        queued=row.queued or 0,
        load_at=row.load_at,
        tokens=tokens,
    )


def _leave(connection: Connection, site: str, tokens: float) -> None:
    """Write down how many submits may still go at once."""
    values = {"tokens": tokens, "tokens_at": db_now()}
    make: Any = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    connection.execute(
        make(sites)
        .values(name=site, state=SiteState.UP.value, since=db_now(), **values)
        .on_conflict_do_update(index_elements=[sites.c.name], set_=values)
    )
