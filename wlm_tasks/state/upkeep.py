"""What control asks of the rows: what is due, overdue, unsent, missing, held or asked to end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, func, select, tuple_, union_all, update

from wlm_tasks.model.states import (
    ExperimentState,
    StepState,
)
from wlm_tasks.model.steps import StepName
from wlm_tasks.state import limits
from wlm_tasks.state.advance import NextStep, advance
from wlm_tasks.state.database import Database
from wlm_tasks.state.politeness import SiteLimits
from wlm_tasks.state.schema import (
    IS_LIVE,
    IS_READY,
    db_now,
    experiments,
    is_open,
    jobs,
    steps,
)

_URGENT_FIRST = (steps.c.priority.desc(), steps.c.ready_at, steps.c.experiment_id)


@dataclass(frozen=True)
class SentStep:
    """A ready step whose message ought to wait in its queue."""

    experiment_id: str
    seq: int
    sent_at: float


class Upkeep:
    """Reads and moves that belong to no single worker."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # -- sending ---------------------------------------------------------------------------

    def unsent(self, limit: int) -> list[NextStep]:
        """Ready steps that were never sent, the most urgent first."""
        with self._database.read() as connection:
            rows = connection.execute(
                select(steps.c.experiment_id, steps.c.seq, steps.c.priority)
                .where(IS_READY, steps.c.sent_at.is_(None))
                .order_by(*_URGENT_FIRST)
                .limit(limit)
            ).all()
            return _with_segments(connection, rows)

    def ready(self, limit: int) -> list[NextStep]:
        """Ready steps, sent or not, the most urgent first."""
        with self._database.read() as connection:
            rows = connection.execute(
                select(steps.c.experiment_id, steps.c.seq, steps.c.priority)
                .where(IS_READY)
                .order_by(*_URGENT_FIRST)
                .limit(limit)
            ).all()
            return _with_segments(connection, rows)

    def stuck(self, older_s: float) -> dict[str, tuple[int, float]]:
        """Queues whose oldest ready step waits longer than this: how many wait, and since when."""
        with self._database.read() as connection:
            rows = connection.execute(
                select(steps.c.queue, func.count(), func.min(steps.c.ready_at))
                .where(IS_READY)
                .group_by(steps.c.queue)
                .having(func.min(steps.c.ready_at) < db_now() - older_s)
            )
            return {queue: (count, since) for queue, count, since in rows}

    def mark_sent(self, sent: Iterable[NextStep]) -> None:
        """The messages of these steps went out just now."""
        keys = [(step.experiment_id, step.segment[0].value) for step in sent]
        with self._database.write() as connection:
            for start in range(0, len(keys), 500):
                connection.execute(
                    update(steps)
                    .where(
                        tuple_(steps.c.experiment_id, steps.c.name).in_(keys[start : start + 500]),
                        steps.c.state == StepState.READY.value,
                    )
                    .values(sent_at=db_now())
                )

    def forget_sent(self) -> None:
        """For the embedded system, alone on its database: no message and no claim is left."""
        with self._database.write() as connection:
            connection.execute(update(steps).where(IS_READY).values(sent_at=None))
            connection.execute(
                update(steps).where(is_open(StepState.RUNNING)).values(lease_until=0.0)
            )

    # -- sweeping --------------------------------------------------------------------------

    def count_sent(self, queue: str, grace_s: float) -> int:
        """Ready steps of a queue whose message was sent more than `grace_s` ago."""
        with self._database.read() as connection:
            return connection.execute(
                select(func.count()).select_from(steps).where(*_sent_before(queue, grace_s))
            ).scalar_one()

    def oldest_sent(self, queue: str, grace_s: float, limit: int) -> list[SentStep]:
        """Of those, the ones sent first: what a queue would have handed out before the others."""
        with self._database.read() as connection:
            rows = connection.execute(
                select(steps.c.experiment_id, steps.c.seq, steps.c.sent_at)
                .where(*_sent_before(queue, grace_s))
                .order_by(steps.c.sent_at)
                .limit(limit)
            )
            return [SentStep(*row) for row in rows]

    def send_again(self, missing: Sequence[SentStep]) -> list[NextStep]:
        """Those of the steps that are still ready and unsent since, as they are to be sent."""
        found: list[NextStep] = []
        with self._database.read() as connection:
            for start in range(0, len(missing), 300):
                part = missing[start : start + 300]
                rows = connection.execute(
                    select(
                        steps.c.experiment_id, steps.c.seq, steps.c.priority, steps.c.sent_at
                    ).where(
                        tuple_(steps.c.experiment_id, steps.c.seq).in_(
                            [(step.experiment_id, step.seq) for step in part]
                        ),
                        IS_READY,
                    )
                ).all()
                known = {(step.experiment_id, step.seq): step.sent_at for step in part}
                same = [row for row in rows if known[(row.experiment_id, row.seq)] == row.sent_at]
                found += _with_segments(connection, same)
        return found

    # -- time ------------------------------------------------------------------------------

    def wake_due(self, limit: int = 500) -> int:
        """Back-offs that are over become ready; returns how many."""
        return self._move_open(
            StepState.BACKOFF,
            steps.c.due_at <= db_now(),
            limit,
            lambda connection, row: advance(
                connection,
                row.experiment_id,
                row.seq,
                StepState.READY,
                quiet=True,
                ready_at=True,
                sent_at=None,
                due_at=None,
            ),
        )

    def expire_leases(self, poison_after: int, limit: int = 500) -> int:
        """Steps whose holder went silent become ready again, or fail after too many crashes."""

        def release(connection: Connection, row: Any) -> None:
            release_lost(connection, row, "its worker went silent", poison_after)

        return self._move_open(StepState.RUNNING, steps.c.lease_until < db_now(), limit, release)

    def _move_open(self, state: StepState, condition: Any, limit: int, move: Any) -> int:
        where = (is_open(state), condition)
        with self._database.read() as connection:
            if connection.execute(select(steps.c.seq).where(*where).limit(1)).first() is None:
                return 0
        with self._database.write() as connection:
            rows = connection.execute(
                select(steps).where(*where).limit(limit).with_for_update(skip_locked=True)
            ).all()
            for row in rows:
                move(connection, row)
            return len(rows)

    # -- limits ----------------------------------------------------------------------------

    def count_held(self) -> int:
        """How many steps are held that may start any moment."""
        with self._database.read() as connection:
            return limits.count_hopeful(connection)

    def release_held(self, of_sites: Mapping[str, SiteLimits]) -> int:
        """Let held steps start as far as their site's and their sweep's limits allow."""
        with self._database.read() as connection:
            if not limits.releasable(connection, of_sites):
                return 0
        with self._database.write() as connection:
            if not self._database.is_sqlite:  # two at once would each fill the same free places
                connection.execute(select(func.pg_advisory_xact_lock(func.hashtext("wlm release"))))
            return limits.release(connection, limits.releasable(connection, of_sites))

    def cancel_rest_of_failed_sweeps(self) -> list[str]:
        """Ids of members that have not started in sweeps that stop at the first failure."""
        with self._database.read() as connection:
            return limits.members_to_stop(connection, 500)

    # -- cancelling ------------------------------------------------------------------------

    def to_cancel(self, again_after_s: float, limit: int = 200) -> list[str]:
        """Experiments that have a job to be ended: asked for, or left over by a failed submit."""
        due = func.coalesce(experiments.c.cancel_sent_at, 0.0) < db_now() - again_after_s
        asked = select(experiments.c.id).where(
            experiments.c.state == ExperimentState.CANCELLING.value, due
        )
        # from the few live jobs, for what has ended is the whole history
        left_over = (
            select(experiments.c.id)
            .join_from(jobs, experiments, experiments.c.id == jobs.c.experiment_id)
            .where(IS_LIVE, experiments.c.state.not_in(limits.NOT_FINAL), due)
        )
        with self._database.read() as connection:
            return list(connection.execute(union_all(asked, left_over).limit(limit)).scalars())

    def cancel_sent(self, ids: Sequence[str]) -> None:
        """A message to end these experiments' jobs went out just now."""
        with self._database.write() as connection:
            connection.execute(
                update(experiments).where(experiments.c.id.in_(ids)).values(cancel_sent_at=db_now())
            )


def release_lost(connection: Connection, row: Any, reason: str, poison_after: int) -> StepState:
    """Take a step back from a holder that is lost: it is ready again, or fails as poison."""
    poisoned = row.crashes + 1 >= poison_after
    if poisoned:
        reason = crash_reason(row.crashes + 1)
    to = StepState.FAILED if poisoned else StepState.READY
    when = {"ended_at": True} if poisoned else {"ready_at": True, "sent_at": None}
    advance(
        connection,
        row.experiment_id,
        row.seq,
        to,
        detail={"reason": reason},
        reason=reason,
        crashes_add=1,
        lease_until=None,
        message_id=None,
        **when,
    )
    return to


def give_reason(connection: Connection, experiment_id: str, seq: int, reason: str) -> None:
    """Say why a step is tried once more, unless that is said already."""
    connection.execute(
        update(steps)
        .where(
            steps.c.experiment_id == experiment_id,
            steps.c.seq == seq,
            steps.c.state.in_([StepState.READY.value, StepState.RUNNING.value]),
            steps.c.reason.is_(None),
        )
        .values(reason=reason)
    )


def crash_reason(crashes: int) -> str:
    """The reason of a step that is given up because its workers die on it."""
    return f"its worker died {crashes} times while working on it"


def _sent_before(queue: str, grace_s: float) -> tuple[Any, ...]:
    return (IS_READY, steps.c.queue == queue, steps.c.sent_at < db_now() - grace_s)


def _with_segments(connection: Connection, rows: Sequence[Any]) -> list[NextStep]:
    """For each ready step the names of the chain that starts with it."""
    if not rows:
        return []
    names: dict[str, list[tuple[int, str]]] = {}
    for start in range(0, len(rows), 500):
        ids = [row.experiment_id for row in rows[start : start + 500]]
        found = connection.execute(
            select(steps.c.experiment_id, steps.c.seq, steps.c.name)
            .where(steps.c.experiment_id.in_(ids))
            .order_by(steps.c.experiment_id, steps.c.seq)
        )
        for experiment_id, group in groupby(found, key=lambda row: str(row.experiment_id)):
            names[experiment_id] = [(row.seq, row.name) for row in group]
    return [
        NextStep(row.experiment_id, segment(names[row.experiment_id], row.seq), row.priority)
        for row in rows
    ]


def segment(names: Sequence[tuple[int, str]], seq: int) -> tuple[StepName, ...]:
    """The steps from `seq` on that follow one another without waiting for the job."""
    result: list[StepName] = []
    for number, name in names:
        if number < seq:
            continue
        if name == StepName.MONITOR:
            break
        result.append(StepName(name))
    return tuple(result)
