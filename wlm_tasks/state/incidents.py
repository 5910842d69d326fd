"""Incidents and what people are told of them, written in one transaction.

Of each kind one incident may be open for a subject (a unique index sees to that), so however many
control processes find the same thing out, one of them opens it and writes the notice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from wlm_tasks.model.notices import Notice, NoticeKind
from wlm_tasks.state.alerts_schema import INCIDENT_OPEN, deliveries, incidents, notices
from wlm_tasks.state.database import Database
from wlm_tasks.state.schema import db_now

#: Incidents of a subject within an hour after which it is told of once an hour only.
FLAPS: Final = 3
_HOUR_S: Final = 3600.0
#: Kinds of incidents.
WORKER, DRAIN, FLEET, BROKER, SITE, QUEUE = "WORKER", "DRAIN", "FLEET", "BROKER", "SITE", "QUEUE"


@dataclass(frozen=True, kw_only=True)
class Incident:
    """Something that went wrong. Times are seconds since the epoch."""

    id: int
    kind: str
    subject: str
    opened_at: float
    closed_at: float | None
    told: bool  #: whether a notice of its own went out
    reason: str | None
    acked_at: float | None
    acked_by: str | None


_COLUMNS: Final = [incidents.c[name] for name in Incident.__dataclass_fields__]


class Incidents:
    """Opens and closes incidents; `notifiers` are the ways each notice goes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open(
        self,
        kind: str,
        subject: str,
        notice: NoticeKind,
        detail: Mapping[str, Any],
        notifiers: Sequence[str],
    ) -> bool:
        """Open an incident and tell of it; False if it is open already."""
        with self._database.write() as connection:
            return open_incident(
                connection, kind, subject, notice, detail=detail, notifiers=notifiers
            )

    def close(
        self,
        kind: str,
        subject: str,
        notice: NoticeKind | None,
        detail: Mapping[str, Any],
        notifiers: Sequence[str],
    ) -> bool:
        """Close an incident and tell of it, unless `notice` is None; False if none is open."""
        with self._database.write() as connection:
            return close_incident(
                connection, kind, subject, notice, detail=detail, notifiers=notifiers
            )

    def tell(self, notice: Notice, notifiers: Sequence[str]) -> bool:
        """Tell of something that is no incident, once; False if it was told."""
        with self._database.write() as connection:
            return add_notice(connection, notice, notifiers)

    def tell_late(
        self,
        incident: Incident,
        notice: NoticeKind,
        detail: Mapping[str, Any],
        notifiers: Sequence[str],
    ) -> bool:
        """Tell of an open incident that was not told when it began; False if that is settled."""
        told = (
            update(incidents)
            .where(incidents.c.id == incident.id, INCIDENT_OPEN, incidents.c.told.is_(False))
            .values(told=True)
        )
        with self._database.write() as connection:
            if not connection.execute(told).rowcount:
                return False
            key = opening_key(incident.kind, incident.id)
            late = Notice(
                key=key, kind=notice, subject=incident.subject, at=incident.opened_at, detail=detail
            )
            return add_notice(connection, late, notifiers)

    def now_open(self) -> list[Incident]:
        """The incidents that are open, the oldest first."""
        with self._database.read() as connection:
            rows = connection.execute(
                select(*_COLUMNS).where(INCIDENT_OPEN).order_by(incidents.c.opened_at)
            )
            return [Incident(**row._asdict()) for row in rows]

    def latest(self, limit: int) -> list[Incident]:
        """The incidents, the newest first."""
        with self._database.read() as connection:
            rows = connection.execute(
                select(*_COLUMNS).order_by(incidents.c.id.desc()).limit(limit)
            )
            return [Incident(**row._asdict()) for row in rows]

    def acknowledge(self, id_: int, who: str) -> bool:
        """Note who looks after an incident; False if somebody does, or there is no such."""
        with self._database.write() as connection:
            changed = connection.execute(
                update(incidents)
                .where(incidents.c.id == id_, incidents.c.acked_at.is_(None))
                .values(acked_at=db_now(), acked_by=who)
            )
            return bool(changed.rowcount)


def open_incident(
    connection: Connection,
    kind: str,
    subject: str,
    notice: NoticeKind,
    *,
    detail: Mapping[str, Any],
    notifiers: Sequence[str],
    told: bool = True,
) -> bool:
    """Open an incident and, unless it is `told` with another, write its notice.

    One that flaps is told of as such, once an hour. False if it is open already.
    """
    flaps = _times(connection, kind, subject) if kind == WORKER and told else 0
    flapping = flaps >= FLAPS
    made = connection.execute(
        _insert(connection)(incidents)
        .values(
            kind=kind,
            subject=subject,
            opened_at=db_now(),
            told=told and not flapping,
            reason=detail.get("reason"),
        )
        .on_conflict_do_nothing()
        .returning(incidents.c.id, incidents.c.opened_at)
    ).one_or_none()
    if made is None:
        return False
    if flapping:
        hour = int(made.opened_at // _HOUR_S)
        key = f"flapping:{subject}:{hour}"
        detail = {**detail, "times": flaps + 1, "within_s": _HOUR_S}
        notice = NoticeKind.WORKER_FLAPPING
    else:
        key = opening_key(kind, made.id)
    if told:
        told_of = Notice(key=key, kind=notice, subject=subject, at=made.opened_at, detail=detail)
        add_notice(connection, told_of, notifiers)
    return True


def close_incident(
    connection: Connection,
    kind: str,
    subject: str,
    notice: NoticeKind | None,
    *,
    detail: Mapping[str, Any],
    notifiers: Sequence[str],
) -> bool:
    """Close an incident and, if its begin was told, tell of its end; False if none is open."""
    closed = connection.execute(
        update(incidents)
        .where(INCIDENT_OPEN, incidents.c.kind == kind, incidents.c.subject == subject)
        .values(closed_at=db_now())
        .returning(incidents.c.id, incidents.c.told, incidents.c.opened_at, incidents.c.closed_at)
    ).one_or_none()
    if closed is None:
        return False
    if closed.told and notice is not None:
        end = Notice(
            key=f"{opening_key(kind, closed.id)}:end",
            kind=notice,
            subject=subject,
            at=closed.closed_at,
            detail={**detail, "down_s": closed.closed_at - closed.opened_at},
            ends=opening_key(kind, closed.id),
        )
        add_notice(connection, end, notifiers)
    return True


def opening_key(kind: str, id_: int) -> str:
    """The key of the notice of an incident."""
    return f"{kind.lower()}:{id_}"


def add_notice(connection: Connection, notice: Notice, notifiers: Sequence[str]) -> bool:
    """Write a notice and a delivery by each way, due at once; False if its key was used before."""
    id_ = connection.execute(
        _insert(connection)(notices)
        .values(
            key=notice.key,
            kind=notice.kind.value,
            subject=notice.subject,
            at=notice.at,
            detail=json.dumps(dict(notice.detail)),
            ends=notice.ends,
        )
        .on_conflict_do_nothing()
        .returning(notices.c.id)
    ).scalar_one_or_none()
    if id_ is None:
        return False
    rows = [{"notice_id": id_, "notifier": name} for name in notifiers]
    if rows:  # due by the database's clock, whoever's the notice is
        connection.execute(deliveries.insert().values(due_at=db_now()), rows)
    return True


def _times(connection: Connection, kind: str, subject: str) -> int:
    """How often a subject had an incident within the last hour."""
    return connection.execute(
        select(func.count())
        .select_from(incidents)
        .where(
            incidents.c.subject == subject,
            incidents.c.opened_at > db_now() - _HOUR_S,
            incidents.c.kind == kind,
        )
    ).scalar_one()


def _insert(connection: Connection) -> Any:
    return sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
