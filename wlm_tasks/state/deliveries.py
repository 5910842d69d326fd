"""Deliveries: each notice goes each of its ways once, whatever is killed meanwhile.

Notices that go out together are bound to a *batch* before they are sent, and stay so: whoever
sends a batch again after a crash sends the same message, with the same id.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Select, delete, exists, func, or_, select, update

from wlm_tasks.model.notices import Notice, NoticeKind
from wlm_tasks.state.alerts_schema import UNDELIVERED, deliveries, incidents, notices
from wlm_tasks.state.database import Database
from wlm_tasks.state.schema import db_now


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A notice that waits to be sent one way. Ages are seconds."""

    id: int
    notice: Notice
    waits_s: float  #: since it was written


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Notices that go out as one message."""

    id: str
    notifier: str
    notices: Sequence[Notice]
    tries: int  #: this one included


@dataclass(frozen=True, kw_only=True)
class DeliveryView:
    """One way of a notice as people see it. Times are seconds since the epoch."""

    notice: Notice
    notifier: str
    due_at: float
    tries: int
    sent_at: float | None
    refused_at: float | None
    error: str | None


_NOTICE: Final = [notices.c[name] for name in ("key", "kind", "subject", "at", "detail", "ends")]


class Deliveries:
    """What the mailer asks and writes down."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def any_open(self, notifier: str) -> bool:
        """Whether anything is to be sent by a notifier, now or later."""
        found = select(deliveries.c.notice_id).where(UNDELIVERED, deliveries.c.notifier == notifier)
        with self._database.read() as connection:
            return connection.execute(found.limit(1)).first() is not None

    def waiting(self, notifier: str, limit: int) -> list[Waiting]:
        """Notices that are bound to no batch yet, the oldest first."""
        with self._database.read() as connection:
            rows = connection.execute(
                _joined((db_now() - notices.c.at).label("waits_s"), notices.c.id)
                .where(UNDELIVERED, deliveries.c.notifier == notifier, deliveries.c.batch.is_(None))
                .order_by(notices.c.id)
                .limit(limit)
            )
            return [Waiting(id=row.id, notice=_notice(row), waits_s=row.waits_s) for row in rows]

    def bind(self, notifier: str, ids: Sequence[int], batch: str) -> None:
        """Let these notices go out as one message; those that go with another by now do not."""
        with self._database.write() as connection:
            for start in range(0, len(ids), 500):
                connection.execute(
                    update(deliveries)
                    .where(
                        deliveries.c.notifier == notifier,
                        deliveries.c.notice_id.in_(ids[start : start + 500]),
                        deliveries.c.batch.is_(None),
                        UNDELIVERED,
                    )
                    .values(batch=batch)
                )

    def claim(self, notifier: str, *, hold_s: float) -> Batch | None:
        """Take a batch that is due, for some seconds in which nobody else may; None if none is."""
        free = or_(deliveries.c.claimed_until.is_(None), deliveries.c.claimed_until < db_now())
        due = (
            select(deliveries.c.batch)
            .where(
                UNDELIVERED,
                deliveries.c.notifier == notifier,
                deliveries.c.batch.is_not(None),
                deliveries.c.due_at <= db_now(),
                free,
            )
            .order_by(deliveries.c.due_at, deliveries.c.notice_id)
            .limit(1)
        )
        with self._database.write() as connection:
            batch = connection.execute(due).scalar_one_or_none()
            if batch is None:
                return None
            mine = update(deliveries).where(
                deliveries.c.batch == batch, deliveries.c.notifier == notifier, UNDELIVERED, free
            )
            claimed = connection.execute(
                mine.values(
                    claimed_until=db_now() + hold_s, tries=deliveries.c.tries + 1
                ).returning(deliveries.c.tries)
            ).all()
            if not claimed:
                return None  # by another control process, in this moment
            rows = connection.execute(
                _joined(notices.c.id)
                .where(deliveries.c.batch == batch, deliveries.c.notifier == notifier)
                .order_by(notices.c.id)
            ).all()
        found = [_notice(row) for row in rows]
        return Batch(id=batch, notifier=notifier, notices=found, tries=claimed[0].tries)

    def hold(self, batch: Batch, hold_s: float) -> None:
        """Keep a claimed batch for some more seconds."""
        self._settle(batch, claimed_until=db_now() + hold_s)

    def sent(self, batch: Batch) -> None:
        """It is with the receiver."""
        self._settle(batch, sent_at=db_now(), claimed_until=None, error=None)

    def put_off(self, batch: Batch, error: str, *, pause_s: float) -> None:
        """It could not be sent now; it is tried again, without end."""
        self._settle(batch, due_at=db_now() + pause_s, claimed_until=None, error=error)

    def refused(self, batch: Batch, error: str) -> None:
        """It will never be taken; people see that in the list of alerts."""
        self._settle(batch, refused_at=db_now(), claimed_until=None, error=error)

    def _settle(self, batch: Batch, **values: Any) -> None:
        with self._database.write() as connection:
            connection.execute(
                update(deliveries)
                .where(
                    deliveries.c.batch == batch.id,
                    deliveries.c.notifier == batch.notifier,
                    UNDELIVERED,
                )
                .values(**values)
            )

    def try_now(self) -> int:
        """Let everything that waits for another try go at once; returns how many."""
        with self._database.write() as connection:
            return connection.execute(
                update(deliveries)
                .where(UNDELIVERED, deliveries.c.due_at > db_now())
                .values(due_at=db_now())
            ).rowcount

    def oldest_s(self) -> float | None:
        """Age of the oldest notice that has not gone out, in seconds; None if all have."""
        with self._database.read() as connection:
            return connection.execute(
                select(db_now() - func.min(notices.c.at))
                .join_from(deliveries, notices, notices.c.id == deliveries.c.notice_id)
                .where(UNDELIVERED)
            ).scalar_one()

    def forget(self, after_s: float) -> int:
        """Remove what went out so long ago, and incidents that ended then; returns how many."""
        old = select(notices.c.id).where(notices.c.at < db_now() - after_s)
        done = or_(deliveries.c.sent_at.is_not(None), deliveries.c.refused_at.is_not(None))
        left = exists().where(deliveries.c.notice_id == notices.c.id)
        with self._database.write() as connection:
            connection.execute(delete(deliveries).where(deliveries.c.notice_id.in_(old), done))
            connection.execute(delete(incidents).where(incidents.c.closed_at < db_now() - after_s))
            gone = delete(notices).where(notices.c.at < db_now() - after_s, ~left)
            return connection.execute(gone).rowcount

    def views(self, limit: int) -> list[DeliveryView]:
        """The newest notices and how they went."""
        names = ("notifier", "due_at", "tries", "sent_at", "refused_at", "error")
        columns = [deliveries.c[name] for name in names]
        with self._database.read() as connection:
            rows = connection.execute(
                _joined(*columns).order_by(notices.c.id.desc(), deliveries.c.notifier).limit(limit)
            )
            return [
                DeliveryView(notice=_notice(row), **{name: getattr(row, name) for name in names})
                for row in rows
            ]


def _joined(*columns: Any) -> Select[Any]:
    return select(*_NOTICE, *columns).join_from(
        deliveries, notices, notices.c.id == deliveries.c.notice_id
    )


def _notice(row: Any) -> Notice:
    return Notice(
        key=row.key,
        kind=NoticeKind(row.kind),
        subject=row.subject,
        at=row.at,
        detail=json.loads(row.detail),
        ends=row.ends,
    )
