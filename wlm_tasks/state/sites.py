"""How sites stand: what was found out, what operators want, and when to look again."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import Connection, Row, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from wlm_tasks.model.sites import (
    OPEN,
    PERSON,
    Condition,
    Evidence,
    SiteState,
    judge,
)
from wlm_tasks.model.states import JobRecord, StepState
from wlm_tasks.state.advance import advance, log
from wlm_tasks.state.database import Database
from wlm_tasks.state.schema import IS_LIVE, db_now, experiments, is_open, jobs, polls, sites, steps
from wlm_tasks.state.site_rows import Busy, Change, SiteRow

#: The event of a change of a site, of no experiment; its detail says which and how.
SITE_EVENT = "SITE"


_COLUMNS = [sites.c[name] for name in SiteRow.__dataclass_fields__]
_WHEN_DOWN = sites.c.state.not_in([state.value for state in sorted(OPEN)])


class Sites:
    """Reads and writes of the table of sites."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._insert: Any = sqlite.insert if database.is_sqlite else postgresql.insert

    def get(self, name: str) -> SiteRow:
        """How one site stands; one never heard of is UP."""
        with self._database.read() as connection:
            row = connection.execute(select(*_COLUMNS).where(sites.c.name == name)).one_or_none()
        return SiteRow(name=name) if row is None else _row(row)

    def all(self) -> dict[str, SiteRow]:
        """How every site stands of which anything was ever to be said."""
        with self._database.read() as connection:
            return {row.name: _row(row) for row in connection.execute(select(*_COLUMNS))}

    def busy(self) -> dict[str, Busy]:
        """What each site has of ours that has not ended, of sites that have anything."""
        live = (
            select(jobs.c.site, jobs.c.state, func.count())
            .where(IS_LIVE)
            .group_by(jobs.c.site, jobs.c.state)
        )
        held = (
            select(experiments.c.site, func.count())
            .join_from(steps, experiments, experiments.c.id == steps.c.experiment_id)
            .where(is_open("HELD"))
            .group_by(experiments.c.site)
        )
        found: dict[str, Busy] = defaultdict(Busy)
        with self._database.read() as connection:
            for site, state, count in connection.execute(live):
                name = "running" if state == JobRecord.RUNNING else "queued"
                had = getattr(found[site], name)
                found[site] = replace(found[site], **{name: had + count})
            for site, count in connection.execute(held):
                found[site] = replace(found[site], held=count)
        return dict(found)

    # -- evidence --------------------------------------------------------------------------

    def report(self, name: str, seen: Evidence, *, who: str, pause_s: float = 0.0) -> Change | None:
        """Write down what a look at a site has shown; returns the change if it is one to tell.

        `pause_s` is how long to wait before the site is tried again, if it is in trouble.
        Whatever many workers find out at once, one of them makes the change and the event.
        """
        with self._database.write() as connection:
            row = self._locked(connection, name)
            verdict = judge(Condition(state=row.state, found_by=row.found_by), seen)
            if not verdict.tell:
                _keep(connection, row, verdict.condition, seen)
                return None
            new = verdict.condition
            connection.execute(
                update(sites)
                .where(sites.c.name == name)
                .values(
                    state=new.state.value,
                    since=db_now(),
                    reason=seen.reason,
                    found_by=new.found_by,
                    told_by=who,
                    probes=0,
                    probe_at=None if new.state in OPEN else db_now() + pause_s,
                    probing=None,
                )
            )
            change = Change(
                site=name,
                was=row.state,
                state=new.state,
                lasted_s=None if row.since is None else row.now - row.since,
                reason=seen.reason if new.state is not SiteState.UP else row.reason,
            )
            _tell(connection, change, who)
            return change

    def pause(self, name: str, *, who: str, reason: str | None) -> bool:
        """Let no new work go to a site; False if it was paused before."""
        return self._set_pause(name, who=who, reason=reason, paused=True)

    def resume(self, name: str, *, who: str) -> bool:
        """Let work go there again, whatever kept it: a pause, or trouble that a person mended.

        False if nothing did. If the trouble is still there, the next to meet it says so.
        """
        unpaused = self._set_pause(name, who=who, reason=None, paused=False)
        seen = Evidence(state=SiteState.UP, by=PERSON)
        return self.report(name, seen, who=who) is not None or unpaused

    def _set_pause(self, name: str, *, who: str, reason: str | None, paused: bool) -> bool:
        with self._database.write() as connection:
            row = self._locked(connection, name)
            if paused is (row.paused_at is not None):
                return False
            values = {"paused_at": db_now(), "paused_reason": reason, "paused_by": who}
            connection.execute(
                update(sites)
                .where(sites.c.name == name)
                .values(values if paused else dict.fromkeys(values))
            )
            pair = (row.state, SiteState.PAUSED)
            was, state = pair if paused else pair[::-1]
            _tell(
                connection,
                Change(site=name, was=was, state=state, lasted_s=None, reason=reason),
                who,
            )
            return True

    def _locked(self, connection: Connection, name: str) -> Any:
        """The site's row, made if there is none, with the database's time as ``now``."""
        connection.execute(
            self._insert(sites)
            .values(name=name, state=SiteState.UP.value, since=db_now())
            .on_conflict_do_nothing(index_elements=[sites.c.name])
        )
        row = connection.execute(
            select(*_COLUMNS, db_now().label("now")).where(sites.c.name == name).with_for_update()
        ).one()
        return _Locked(**{**row._asdict(), "state": SiteState(row.state)})

    # -- probes ----------------------------------------------------------------------------

    def to_probe(self) -> list[SiteRow]:
        """Sites in trouble that are to be tried again now."""
        with self._database.read() as connection:
            rows = connection.execute(
                select(*_COLUMNS).where(_WHEN_DOWN, sites.c.probe_at <= db_now())
            )
            return [_row(row) for row in rows]

    def probe(self, site: SiteRow, pause_s: float) -> str | None:
        """Let one held step try a site: the most urgent of those that met the trouble.

        Returns its experiment, or an empty text if there is none and the site is to be asked
        itself, or None if another control process was faster. The next try is due in
        `pause_s` seconds.
        """
        with self._database.write() as connection:
            mine = connection.execute(
                update(sites)
                .where(
                    sites.c.name == site.name,
                    sites.c.probe_at == site.probe_at,
                    sites.c.state == site.state.value,
                )
                .values(probe_at=db_now() + pause_s, probes=sites.c.probes + 1, probing=None)
            ).rowcount
            if not mine:
                return None
            step = _held_up(connection, site)
            if step is None:
                return ""
            advance(
                connection, step.experiment_id, step.seq, StepState.READY,
                quiet=True, ready_at=True, sent_at=None, reason=None,
            )  # fmt: skip
            connection.execute(
                update(sites).where(sites.c.name == site.name).values(probing=step.experiment_id)
            )
            return str(step.experiment_id)

    # -- load ------------------------------------------------------------------------------

    def counted(self, name: str, *, queued: int, running: int, foreign: int) -> None:
        """Write down what the account has at a site, as the poll under way found."""
        begun = select(polls.c.begun_at).where(polls.c.site == name).scalar_subquery()
        values = {
            "queued": queued,
            "running": running,
            "foreign_jobs": foreign,
            # what came after the poll began may be in its answer or not
            "load_at": func.coalesce(begun, db_now()),
        }
        statement = self._insert(sites).values(
            name=name, state=SiteState.UP.value, since=db_now(), **values
        )
        with self._database.write() as connection:
            connection.execute(
                statement.on_conflict_do_update(index_elements=[sites.c.name], set_=values)
            )

    def not_counted(self, name: str, *, after_s: float) -> None:
        """Forget a count older than this: the site does not tell any more, so ours count alone."""
        with self._database.write() as connection:
            connection.execute(
                update(sites)
                .where(sites.c.name == name, sites.c.load_at < db_now() - after_s)
                .values(queued=None, running=None, foreign_jobs=None, load_at=None)
            )


@dataclass(frozen=True, kw_only=True)
class _Locked(SiteRow):
    now: float


def _row(row: Row[Any]) -> SiteRow:
    return SiteRow(**{**row._asdict(), "state": SiteState(row.state)})


def _keep(connection: Connection, row: SiteRow, condition: Condition, seen: Evidence) -> None:
    """The trouble goes on: note its latest words and who looks for its end, if they changed."""
    if seen.state is not row.state or row.state is SiteState.UP:
        return
    if (row.reason, row.found_by) != (seen.reason, condition.found_by):
        connection.execute(
            update(sites)
            .where(sites.c.name == row.name)
            .values(reason=seen.reason, found_by=condition.found_by)
        )


def _tell(connection: Connection, change: Change, who: str) -> None:
    detail = {
        "site": change.site,
        "was": change.was.value,
        "state": change.state.value,
        "reason": change.reason,
        "by": who,
    }
    log(connection, None, SITE_EVENT, detail=detail)


def _held_up(connection: Connection, site: SiteRow) -> Any:
    """The most urgent step that the trouble holds, of those that can find out its end."""
    if site.paused_at is not None:
        return None
    return connection.execute(
        select(steps.c.experiment_id, steps.c.seq)
        .join_from(steps, experiments, experiments.c.id == steps.c.experiment_id)
        .where(
            is_open("HELD"),
            was_claimed(),
            steps.c.name == site.found_by,
            experiments.c.site == site.name,
        )
        .order_by(steps.c.priority.desc(), steps.c.ready_at, steps.c.experiment_id)
        .limit(1)
        .with_for_update(of=steps, skip_locked=True)
    ).one_or_none()


def was_claimed() -> Any:
    """Of held steps: those that a worker held, because of their site; not by a sweep's limit."""
    return steps.c.attempt > 0


def closed_sites(connection: Connection) -> dict[str, SiteRow]:
    """Sites that take no new work now."""
    rows = connection.execute(select(*_COLUMNS).where(_WHEN_DOWN | sites.c.paused_at.is_not(None)))
    return {row.name: _row(row) for row in rows}
