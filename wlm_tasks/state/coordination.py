"""How several processes share the work of control: leases, polls, and the outbox of events."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import func, literal, select, union_all, update
from sqlalchemy.dialects import postgresql, sqlite

from wlm_tasks.model.steps import QUEUES, StepName
from wlm_tasks.state.database import Database
from wlm_tasks.state.schema import (
    IS_LIVE,
    UNPUBLISHED,
    db_now,
    events,
    experiments,
    is_open,
    jobs,
    leases,
    polls,
    sites,
    steps,
    sweeps,
)

#: Seconds between polls of a site that the settings of this process do not know.
_UNKNOWN_SITE_S: Final = 5.0


@dataclass(frozen=True, kw_only=True)
class OutboxEvent:
    """A change of an experiment's state that has not gone out yet."""

    id: int
    experiment_id: str | None
    state: str
    at: float
    key: str | None
    sweep_id: str | None
    detail: dict[str, Any]


def _to_ask() -> Any:
    """Sites to poll, and when the newest of their live jobs was made."""
    newest = func.max(jobs.c.created_at).label("newest")
    live = select(jobs.c.site, newest).where(IS_LIVE).group_by(jobs.c.site)
    held = (
        select(experiments.c.site, literal(0.0).label("newest"))
        .join_from(steps, experiments, experiments.c.id == steps.c.experiment_id)
        .join(sites, (sites.c.name == experiments.c.site) & sites.c.load_at.is_not(None))
        .where(
            is_open("HELD"),
            steps.c.queue == QUEUES[StepName.SUBMIT],
            experiments.c.site.not_in(select(jobs.c.site).where(IS_LIVE)),
        )
        .distinct()
    )
    return union_all(live, held)


def _is_due(row: Any, interval_s: dict[str, float], again_after_s: float) -> bool:
    if row.since_sent is None:
        return True
    usual = interval_s.get(row.site, _UNKNOWN_SITE_S)
    pace = usual if row.fresh or row.pace_s is None else row.pace_s
    return bool(row.since_sent >= pace and (row.done or row.since_sent >= again_after_s))


class Coordination:
    """Leases by name, polls by site, events by number."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._insert: Any = sqlite.insert if database.is_sqlite else postgresql.insert

    def acquire(self, name: str, holder: str, ttl_s: float) -> bool:
        """Take or prolong a lease; False while another holder's has not run out."""
        statement = self._insert(leases).values(
            name=name, holder=holder, expires_at=db_now() + ttl_s
        )
        statement = statement.on_conflict_do_update(
            index_elements=[leases.c.name],
            set_={"holder": holder, "expires_at": db_now() + ttl_s},
            where=(leases.c.holder == holder) | (leases.c.expires_at < db_now()),
        ).returning(leases.c.name)
        with self._database.write() as connection:
            return connection.execute(statement).one_or_none() is not None

    def release(self, holder: str) -> None:
        """Give up every lease of a holder, so that another need not wait for its end."""
        with self._database.write() as connection:
            connection.execute(leases.delete().where(leases.c.holder == holder))

    def holders(self) -> dict[str, str]:
        """Who holds which lease now."""
        with self._database.read() as connection:
            rows = connection.execute(
                select(leases.c.name, leases.c.holder).where(leases.c.expires_at > db_now())
            )
            return {row.name: row.holder for row in rows}

    def sites_to_poll(self, interval_s: dict[str, float], again_after_s: float) -> list[str]:
        """Sites with live jobs whose poll is due and not under way.

        Due is a poll when its pace says so, or `interval_s` where a job is new since the last.
        Sites that hold submits and tell how busy they are count as if they had jobs.
        """
        live = _to_ask().subquery()
        with self._database.read() as connection:
            rows = connection.execute(
                select(
                    live.c.site,
                    (db_now() - polls.c.sent_at).label("since_sent"),
                    (polls.c.done_at >= polls.c.sent_at).label("done"),
                    polls.c.pace_s,
                    (live.c.newest >= polls.c.sent_at).label("fresh"),
                ).join_from(live, polls, polls.c.site == live.c.site, isouter=True)
            ).all()
        return [row.site for row in rows if _is_due(row, interval_s, again_after_s)]

    def poll_sent(self, site: str, spacing_s: float = 0.0) -> bool:
        """A poll of the site is asked for now; False if one was less than `spacing_s` ago."""
        statement = self._insert(polls).values(site=site, sent_at=db_now())
        statement = statement.on_conflict_do_update(
            index_elements=[polls.c.site],
            set_={"sent_at": db_now()},
            where=polls.c.sent_at <= db_now() - spacing_s,
        ).returning(polls.c.site)
        with self._database.write() as connection:
            return connection.execute(statement).one_or_none() is not None

    def poll_begun(self, site: str, spacing_s: float) -> bool:
        """A poll of the site begins now; False if another began less than `spacing_s` ago.

        Messages may pile up while nobody serves their queue, and come doubled; this keeps the
        distance between requests all the same.
        """
        now = db_now()
        statement = self._insert(polls).values(site=site, sent_at=now, begun_at=now)
        statement = statement.on_conflict_do_update(
            index_elements=[polls.c.site],
            set_={"begun_at": db_now()},
            where=func.coalesce(polls.c.begun_at, 0.0) <= db_now() - spacing_s,
        ).returning(polls.c.site)
        with self._database.write() as connection:
            return connection.execute(statement).one_or_none() is not None

    def poll_pace(self, site: str) -> float | None:
        """Seconds that were to pass before the present poll; None if that was not said."""
        with self._database.read() as connection:
            return connection.execute(
                select(polls.c.pace_s).where(polls.c.site == site)
            ).scalar_one_or_none()

    def poll_done(self, site: str, error: str | None, pace_s: float | None = None) -> bool:
        """A poll of the site has ended; `error` says why it found nothing out.

        `pace_s` is the time until the next. True if the error is another than the last one.
        """
        with self._database.write() as connection:
            before = connection.execute(
                select(polls.c.error).where(polls.c.site == site)
            ).scalar_one_or_none()
            connection.execute(
                update(polls)
                .where(polls.c.site == site)
                .values(done_at=db_now(), error=error, pace_s=pace_s)
            )
            return before != error

    def poll_skipped(self, site: str) -> None:
        """A poll that was asked for is not needed: another was made a moment ago."""
        with self._database.write() as connection:
            connection.execute(update(polls).where(polls.c.site == site).values(done_at=db_now()))

    def poll_errors(self) -> dict[str, str]:
        """Sites whose last poll failed, and why."""
        with self._database.read() as connection:
            rows = connection.execute(
                select(polls.c.site, polls.c.error).where(polls.c.error.is_not(None))
            )
            return {row.site: row.error for row in rows}

    def unpublished(self, limit: int) -> list[OutboxEvent]:
        """Events that have to go out, oldest first."""
        with self._database.read() as connection:
            rows = connection.execute(
                select(
                    events,
                    # the members of a sweep go by the key it was handed in with
                    func.coalesce(experiments.c.key, sweeps.c.key).label("key"),
                    experiments.c.sweep_id,
                )
                .join_from(
                    events, experiments, experiments.c.id == events.c.experiment_id, isouter=True
                )
                .outerjoin(sweeps, sweeps.c.id == experiments.c.sweep_id)
                .where(UNPUBLISHED)
                .order_by(events.c.id)
                .limit(limit)
            )
            return [
                OutboxEvent(
                    id=row.id,
                    experiment_id=row.experiment_id,
                    state=row.state,
                    at=row.at,
                    key=row.key,
                    sweep_id=row.sweep_id,
                    detail=json.loads(row.detail) if row.detail else {},
                )
                for row in rows
            ]

    def flush(self) -> None:
        """Have all that was committed so far on the disk: no power cut takes back what is told."""
        statement = self._insert(leases).values(name="flush", holder="", expires_at=db_now())
        statement = statement.on_conflict_do_update(
            index_elements=[leases.c.name], set_={"expires_at": db_now()}
        )
        with self._database.write() as connection:
            connection.execute(statement)

    def mark_published(self, ids: Sequence[int]) -> None:
        """These events are with the broker."""
        with self._database.write() as connection:
            connection.execute(update(events).where(events.c.id.in_(ids)).values(published=1))

    def clock(self) -> float:
        """The database's clock, in seconds since the epoch."""
        with self._database.read() as connection:
            return float(connection.execute(select(db_now())).scalar_one())

    def reject_submission(self, key: str | None, reason: str) -> None:
        """Record a submission by message that was not valid, so that its sender is told."""
        with self._database.write() as connection:
            connection.execute(
                events.insert().values(
                    at=db_now(),
                    state="REJECTED",
                    published=0,
                    detail=json.dumps({"key": key, "reason": reason}),
                )
            )

    def announce(self, experiment_id: str) -> None:
        """Have the present state of an experiment told again, for whoever asks late."""
        with self._database.write() as connection:
            state = select(experiments.c.state).where(experiments.c.id == experiment_id)
            connection.execute(
                events.insert().values(
                    at=db_now(),
                    experiment_id=experiment_id,
                    state=state.scalar_subquery(),
                    published=0,
                    detail=json.dumps({"again": True}),
                )
            )

    def count_unpublished(self) -> int:
        """How many events wait to go out."""
        with self._database.read() as connection:
            return connection.execute(
                select(func.count()).select_from(events).where(UNPUBLISHED)
            ).scalar_one()
