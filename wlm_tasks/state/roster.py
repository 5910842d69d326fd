"""The roster: which workers there are, what they are, and how they stand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    and_,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from wlm_tasks.model.workers import WorkerState
from wlm_tasks.state.alerts_schema import HERE, MISSED, absences, workers
from wlm_tasks.state.database import Database
from wlm_tasks.state.schema import db_now

#: Seconds for which one that was missed is looked at for signs of life.
_HOPE_S: Final = 120.0


@dataclass(frozen=True, kw_only=True)
class Registration:
    """What a worker says of itself when it begins."""

    name: str  #: its Celery node name
    incarnation: str
    host: str
    pid: int
    queues: Sequence[str]
    #: such as ``concurrency``, ``pool``, ``version``, ``cpus``, ``memory_mb``, ``zone``
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Present:
    """A worker as its watcher needs it. Ages are seconds by the database's clock."""

    name: str
    incarnation: str
    host: str
    pid: int
    queues: str  #: as JSON, like the attributes
    attributes: str
    state: WorkerState
    for_s: float  #: how long it stands so
    heard_s: float  #: since its last sign of life
    age_s: float  #: since it registered
    registered_at: float
    draining: bool
    deadline_s: float | None  #: left for its drain
    gone: bool
    witnesses: str | None  #: as JSON, as they were noted last


@dataclass(frozen=True, kw_only=True)
class WorkerView:
    """A worker as people see it. Times are seconds since the epoch."""

    name: str
    incarnation: str
    host: str
    pid: int
    queues: list[str]
    attributes: dict[str, Any]
    load: int  #: 0 idle to 9
    registered_at: float
    heard_at: float
    state: WorkerState
    since: float
    reason: str | None
    draining_at: float | None
    drained_by: str | None
    drain_until: float | None
    witnesses: dict[str, str]  #: what each said when that last changed


@dataclass(frozen=True, kw_only=True)
class Absence:
    """An absence that was announced, of a worker or of all workers of a host."""

    subject: str
    until: float
    reason: str | None
    who: str
    at: float


_SINCE: Final = {
    "for_s": workers.c.since,
    "heard_s": workers.c.heard_at,
    "age_s": workers.c.registered_at,
}
_PRESENT: Final = [
    workers.c.name,
    workers.c.incarnation,
    workers.c.host,
    workers.c.pid,
    workers.c.queues,
    workers.c.attributes,
    workers.c.state,
    workers.c.registered_at,
    workers.c.witnesses,
    *((db_now() - column).label(name) for name, column in _SINCE.items()),
    workers.c.draining_at.is_not(None).label("draining"),
    (workers.c.drain_until - db_now()).label("deadline_s"),
    workers.c.gone_at.is_not(None).label("gone"),
]
_PRESENT_NAMES: Final = [column.key for column in _PRESENT]
_STATES: Final = {state.value: state for state in WorkerState}
_VIEW: Final = [
    workers.c[name] for name in WorkerView.__dataclass_fields__
]  # in the order of the fields


class Roster:
    """Reads and writes of the roster but for changes of state, which come from evidence."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._insert: Any = sqlite.insert if database.is_sqlite else postgresql.insert

    # -- by workers ------------------------------------------------------------------------

    def register(self, worker: Registration) -> None:
        """Enter a worker that begins, or enter it again after its row was removed."""
        values = {
            "host": worker.host,
            "pid": worker.pid,
            "queues": json.dumps(list(worker.queues)),
            "attributes": json.dumps(dict(worker.attributes)),
            "heard_at": db_now(),
        }
        statement = self._insert(workers).values(
            name=worker.name,
            incarnation=worker.incarnation,
            registered_at=db_now(),
            state=WorkerState.UP.value,
            since=db_now(),
            **values,
        )
        statement = statement.on_conflict_do_update(
            index_elements=[workers.c.name, workers.c.incarnation], set_=values
        )
        with self._database.write() as connection:
            connection.execute(statement)

    def refresh(self, name: str, incarnation: str, *, load: int) -> bool | None:
        """Note a sign of life; returns whether the worker is to drain, None if it has no row."""
        with self._database.write() as connection:
            row = connection.execute(
                update(workers)
                .where(_is(name, incarnation))
                .values(heard_at=db_now(), load=load)
                .returning(workers.c.draining_at)
            ).one_or_none()
        return None if row is None else row.draining_at is not None

    def stopping(self, name: str, incarnation: str, *, within_s: float) -> None:
        """The worker says that it finishes what it has and ends within some seconds."""
        self._drain(_is(name, incarnation), who="itself", within_s=within_s)

    def gone(self, name: str, incarnation: str, *, announced: bool) -> None:
        """The worker says that it ends now; one that was not to end is looked at by control."""
        values: dict[str, Any] = {"gone_at": db_now()}
        if announced:
            values |= {"draining_at": func.coalesce(workers.c.draining_at, db_now())}
        planned = or_(literal(announced), workers.c.draining_at.is_not(None))
        ended = {"state": WorkerState.LEFT.value, "since": db_now(), "reason": "it has ended"}
        mine = and_(_is(name, incarnation), HERE)
        with self._database.write() as connection:
            connection.execute(update(workers).where(mine, planned).values(values | ended))
            connection.execute(update(workers).where(mine).values(values))

    # -- by operators ----------------------------------------------------------------------

    def drain(self, name: str, *, who: str, within_s: float | None) -> bool:
        """Have a worker take nothing new; False if there is none of that name that is to."""
        here = and_(workers.c.name == name, HERE, workers.c.draining_at.is_(None))
        return self._drain(here, who=who, within_s=within_s)

    def _drain(self, which: ColumnElement[bool], *, who: str, within_s: float | None) -> bool:
        until = None if within_s is None else db_now() + within_s
        with self._database.write() as connection:
            changed = connection.execute(
                update(workers)
                .where(which)
                .values(draining_at=db_now(), drained_by=who, drain_until=until)
            )
            return bool(changed.rowcount)

    def undrain(self, name: str) -> bool:
        """Let a worker that an operator drains take work again; False if there is none."""
        with self._database.write() as connection:
            changed = connection.execute(
                update(workers)
                .where(
                    workers.c.name == name,
                    HERE,
                    workers.c.draining_at.is_not(None),
                    workers.c.drained_by != "itself",
                )
                .values(draining_at=None, drained_by=None, drain_until=None)
            )
            return bool(changed.rowcount)

    def announce(self, subject: str, *, who: str, for_s: float, reason: str | None) -> None:
        """Announce an absence of a worker, or of all workers of a host."""
        values = {"until": db_now() + for_s, "reason": reason, "who": who, "at": db_now()}
        statement = self._insert(absences).values(subject=subject, **values)
        with self._database.write() as connection:
            connection.execute(
                statement.on_conflict_do_update(index_elements=[absences.c.subject], set_=values)
            )

    def end_absence(self, subject: str) -> bool:
        """End an announced absence early; False if there is none."""
        with self._database.write() as connection:
            ended = delete(absences).where(
                absences.c.subject == subject, absences.c.until > db_now()
            )
            return bool(connection.execute(ended).rowcount)

    # -- by control ------------------------------------------------------------------------

    def present(self) -> list[Present]:
        """Every worker that is expected, and those missed lately."""
        lately = and_(MISSED, workers.c.heard_at > db_now() - _HOPE_S)
        with self._database.read() as connection:
            rows = connection.execute(select(*_PRESENT).where(or_(HERE, lately)))
            return [_present(*row) for row in rows]

    def forget_worker(self, name: str) -> bool:
        """Take a worker that is missed off the roster; False if none of that name is."""
        missed = workers.c.state.in_(["DOWN", "SUSPECT", "RECOVERED"])
        with self._database.write() as connection:
            changed = connection.execute(
                update(workers)
                .where(workers.c.name == name, HERE, missed)
                .values(
                    gone_at=db_now(),
                    state=WorkerState.LEFT.value,
                    since=db_now(),
                    reason="an operator took it off the roster",
                )
            )
            return bool(changed.rowcount)

    def note(self, name: str, incarnation: str, witnesses: str) -> None:
        """Write down what the witnesses say of a worker, for people."""
        with self._database.write() as connection:
            connection.execute(
                update(workers).where(_is(name, incarnation)).values(witnesses=witnesses)
            )

    def forget(self, after_s: float) -> int:
        """Remove workers that left so long ago, and absences that are over; returns how many."""
        with self._database.write() as connection:
            connection.execute(delete(absences).where(absences.c.until < db_now() - after_s))
            left = and_(workers.c.state == "LEFT", workers.c.since < db_now() - after_s)
            return connection.execute(delete(workers).where(left)).rowcount

    # -- by everybody ----------------------------------------------------------------------

    def absences(self) -> dict[str, Absence]:
        """The announced absences that are not over, by subject."""
        columns = [absences.c[name] for name in Absence.__dataclass_fields__]
        with self._database.read() as connection:
            rows = connection.execute(select(*columns).where(absences.c.until > db_now()))
            return {row.subject: Absence(**row._asdict()) for row in rows}

    def views(self, *, left_s: float = 0.0) -> list[WorkerView]:
        """The workers by name, with those that left in the last seconds if that is asked for."""
        lately = and_(workers.c.state == "LEFT", workers.c.since > db_now() - left_s)
        newer = workers.alias("newer")
        # of a name that is in use again what came before tells nothing
        replaced = exists().where(
            newer.c.name == workers.c.name, newer.c.registered_at > workers.c.registered_at
        )
        wanted = or_(HERE, and_(lately, ~replaced)) if left_s else HERE
        with self._database.read() as connection:
            rows = connection.execute(
                select(*_VIEW).where(wanted).order_by(workers.c.name, workers.c.registered_at)
            )
            return [_view(row) for row in rows]


def _present(*values: Any) -> Present:
    found = dict(zip(_PRESENT_NAMES, values, strict=True))
    found["state"] = _STATES[found["state"]]
    return Present(**found)


def _is(name: str, incarnation: str) -> ColumnElement[bool]:
    return and_(workers.c.name == name, workers.c.incarnation == incarnation)


def _view(row: Any) -> WorkerView:
    values = row._asdict()
    values["queues"] = json.loads(row.queues)
    values["attributes"] = json.loads(row.attributes)
    values["witnesses"] = json.loads(row.witnesses) if row.witnesses else {}
    values["state"] = WorkerState(row.state)
    return WorkerView(**values)
