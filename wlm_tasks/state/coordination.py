"""How several processes share the work of control: leases and the outbox of events."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from wlm_tasks.state.database import Database
from wlm_tasks.state.schema import (
    UNPUBLISHED,
    db_now,
    events,
    experiments,
    leases,
    sweeps,
)


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


class Coordination:
    """Leases by name, events by number."""

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

    def release_one(self, name: str, holder: str) -> None:
        """Give up one lease, so that another may take it at once."""
        with self._database.write() as connection:
            connection.execute(
                leases.delete().where(leases.c.name == name, leases.c.holder == holder)
            )

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
