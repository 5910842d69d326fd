"""When sites are polled, so that one poll at a time serves the whole fleet.

Whoever asks for a poll notes it as sent; the worker that begins it holds it until it is done. Both
keep their distance from the one before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import func, literal, select, union_all, update
from sqlalchemy.dialects import postgresql, sqlite

from wlm_tasks.model.steps import QUEUES, StepName
from wlm_tasks.state.database import Database
from wlm_tasks.state.schema import (
    IS_LIVE,
    db_now,
    experiments,
    is_open,
    jobs,
    polls,
    sites,
    steps,
)

#: Polls are at least this part of their interval apart, whoever asks for them.
SPACING: Final = 0.8
#: Seconds between polls of a site that the settings of this process do not know.
_UNKNOWN_SITE_S: Final = 5.0
#: True once nobody is at a poll any more, as far as the row tells.
_IS_OVER: Final = func.coalesce(polls.c.done_at >= polls.c.begun_at, polls.c.begun_at.is_(None))


class Polls:
    """The books on polls, by site."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._insert: Any = sqlite.insert if database.is_sqlite else postgresql.insert

    def due(self, interval_s: Mapping[str, float], again_after_s: float) -> list[str]:
        """Sites with live jobs whose poll is due and not under way.

        Due is a poll when its pace says so, or `interval_s` where a job is new since the last.
        Sites that hold submits and tell how busy they are count as if they had jobs. A poll that
        shows no effect is due again after `again_after_s` seconds.
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

    def sent(self, site: str, spacing_s: float = 0.0) -> bool:
        """A poll of the site is asked for now; False if one was less than `spacing_s` ago."""
        statement = self._insert(polls).values(site=site, sent_at=db_now())
        statement = statement.on_conflict_do_update(
            index_elements=[polls.c.site],
            set_={"sent_at": db_now()},
            where=polls.c.sent_at <= db_now() - spacing_s,
        ).returning(polls.c.site)
        with self._database.write() as connection:
            return connection.execute(statement).one_or_none() is not None

    def begin(self, site: str, poller: str, *, spacing_s: float, lease_s: float) -> bool:
        """Take a site's poll; False if another is under way or began less than `spacing_s` ago.

        Messages may pile up while nobody serves their queue, and come doubled; this keeps the
        distance between requests all the same. `poller` is the id of the message in hand: when
        it comes again before the poll is done, its first holder is gone. Otherwise a poll whose
        worker died is taken over after `lease_s` seconds.
        """
        now = db_now()
        values = {"begun_at": now, "poller": poller}
        again = (polls.c.poller == poller) & ~_IS_OVER
        free = _IS_OVER | (polls.c.begun_at <= now - lease_s)
        statement = self._insert(polls).values(site=site, sent_at=now, **values)
        statement = statement.on_conflict_do_update(
            index_elements=[polls.c.site],
            set_=values,
            where=again | (free & (func.coalesce(polls.c.begun_at, 0.0) <= now - spacing_s)),
        ).returning(polls.c.site)
        with self._database.write() as connection:
            return connection.execute(statement).one_or_none() is not None

    def pace(self, site: str) -> float | None:
        """Seconds that were to pass before the present poll; None if that was not said."""
        with self._database.read() as connection:
            return connection.execute(
                select(polls.c.pace_s).where(polls.c.site == site)
            ).scalar_one_or_none()

    def done(self, site: str, error: str | None, pace_s: float | None = None) -> bool:
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

    def skipped(self, site: str) -> None:
        """A poll that was asked for is not needed: another was made a moment ago, or is now."""
        with self._database.write() as connection:
            connection.execute(
                update(polls).where(polls.c.site == site, _IS_OVER).values(done_at=db_now())
            )

    def forget(self) -> None:
        """Nobody is at any poll: the only process there may be has just started."""
        with self._database.write() as connection:
            connection.execute(update(polls).values(begun_at=None, sent_at=0.0))

    def errors(self) -> dict[str, str]:
        """Sites whose last poll failed, and why."""
        with self._database.read() as connection:
            rows = connection.execute(
                select(polls.c.site, polls.c.error).where(polls.c.error.is_not(None))
            )
            return {row.site: row.error for row in rows}

    def times(self) -> dict[str, float]:
        """When the last poll of each site ended."""
        with self._database.read() as connection:
            rows = connection.execute(
                select(polls.c.site, polls.c.done_at).where(polls.c.done_at.is_not(None))
            )
            return {row.site: row.done_at for row in rows}


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


def _is_due(row: Any, interval_s: Mapping[str, float], again_after_s: float) -> bool:
    if row.since_sent is None:
        return True
    usual = interval_s.get(row.site, _UNKNOWN_SITE_S)
    pace = usual if row.fresh or row.pace_s is None else row.pace_s
    return bool(row.since_sent >= pace and (row.done or row.since_sent >= again_after_s))
