"""What a change of a worker means for the work it had: one transaction with the change itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, func, select, tuple_, update

from wlm_tasks.model.notices import Notice, NoticeKind
from wlm_tasks.model.states import StepState
from wlm_tasks.model.workers import Change, Outcome, WorkerState
from wlm_tasks.state.advance import event, log_many
from wlm_tasks.state.alerts_schema import workers
from wlm_tasks.state.database import Database
from wlm_tasks.state.incidents import WORKER, add_notice, open_incident
from wlm_tasks.state.roster import Present
from wlm_tasks.state.schema import db_now, events, experiments, is_open, steps
from wlm_tasks.state.upkeep import give_reason, release_lost

#: The event of an experiment whose step was on a worker that disappeared.
WORKER_EVENT: Final = "WORKER_DOWN"
#: Newest events that are searched for what a worker had in hand.
_EVENTS: Final = 20_000
#: Steps a notice names.
_NAMED: Final = 20


@dataclass(frozen=True, kw_only=True)
class Decided:
    """A change of one worker, and how it is told."""

    worker: Present
    change: Change
    detail: Mapping[str, Any]  #: for the notice: what is known beside the work
    told: bool = True  #: False if another notice tells of it


@dataclass(frozen=True, kw_only=True)
class _InHand:
    """A step that a worker had when it disappeared."""

    experiment_id: str
    seq: int
    name: str  #: of the experiment
    step: str
    became: str


class Disappearances:
    """Carries out what was decided of workers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def apply(self, decided: Decided, notifiers: Sequence[str], *, poison_after: int) -> bool:
        """Move a worker and all that follows; False if it was moved by somebody else meanwhile.

        When one disappears its steps are ready again at once, and fail once they have lost
        `poison_after` workers.
        """
        with self._database.write() as connection:
            if not _moved(connection, decided):
                return False
            if decided.change.state is WorkerState.DOWN:
                self._down(connection, decided, notifiers, poison_after)
            elif decided.change.outcome in _TOLD and decided.told:
                _tell(connection, decided, notifiers)
            return True

    def _down(
        self,
        connection: Connection,
        decided: Decided,
        notifiers: Sequence[str],
        poison_after: int,
    ) -> None:
        worker, reason = decided.worker, f"its worker {decided.worker.name} is down"
        moved_on = _moved_on(connection, worker)
        in_hand = [*_released(connection, worker, reason, poison_after), *moved_on]
        _note(connection, in_hand, reason)
        if decided.change.outcome is not Outcome.DISAPPEARED:
            return
        detail = {**decided.detail, "steps": [_named(one) for one in in_hand[:_NAMED]]}
        if len(in_hand) > _NAMED:
            detail["more_steps"] = len(in_hand) - _NAMED
        open_incident(
            connection,
            WORKER,
            worker.name,
            NoticeKind.WORKER_DOWN,
            detail=detail,
            notifiers=notifiers,
            told=decided.told,
        )


_TOLD: Final = {
    Outcome.RESTARTED: NoticeKind.WORKER_RESTARTED,
    Outcome.LEFT_UNASKED: NoticeKind.WORKER_LEFT,
}


def _moved(connection: Connection, decided: Decided) -> bool:
    worker, change = decided.worker, decided.change
    moved = connection.execute(
        update(workers)
        .where(
            workers.c.name == worker.name,
            workers.c.incarnation == worker.incarnation,
            workers.c.state == worker.state.value,
        )
        .values(state=change.state.value, since=db_now(), reason=change.reason or None)
    )
    return bool(moved.rowcount)


def _tell(connection: Connection, decided: Decided, notifiers: Sequence[str]) -> None:
    worker, kind = decided.worker, _TOLD[decided.change.outcome]
    now = connection.execute(select(db_now())).scalar_one()
    key = f"{kind.lower()}:{worker.name}:{worker.incarnation}"
    notice = Notice(key=key, kind=kind, subject=worker.name, at=now, detail=decided.detail)
    add_notice(connection, notice, notifiers)


def _released(
    connection: Connection, worker: Present, reason: str, poison_after: int
) -> list[_InHand]:
    """Take back what the worker still has by the rows, unless its name is in use again."""
    newer = select(workers.c.name).where(
        workers.c.name == worker.name, workers.c.registered_at > worker.registered_at
    )
    if connection.execute(newer.limit(1)).first() is not None:
        return []
    held = connection.execute(
        select(steps, experiments.c.name.label("experiment"))
        .join_from(steps, experiments, experiments.c.id == steps.c.experiment_id)
        .where(is_open(StepState.RUNNING), steps.c.worker == worker.name)
        .with_for_update(of=steps, skip_locked=True)  # who ends it in this moment is faster
    ).all()
    return [
        _InHand(
            experiment_id=row.experiment_id,
            seq=row.seq,
            name=row.experiment,
            step=row.name,
            became="failed: its workers die on it"
            if release_lost(connection, row, reason, poison_after) is StepState.FAILED
            else "released",
        )
        for row in held
    ]


def _moved_on(connection: Connection, worker: Present) -> list[_InHand]:
    """Steps that the broker gave to others when the worker's connection broke."""
    newest = select(func.coalesce(func.max(events.c.id), 0)).scalar_subquery()
    begun = connection.execute(
        select(events.c.experiment_id, events.c.seq, events.c.epoch).where(
            events.c.id > newest - _EVENTS,
            events.c.worker == worker.name,
            events.c.state == StepState.RUNNING.value,
            events.c.at > worker.registered_at,
        )
    ).all()
    last = {(row.experiment_id, row.seq): row.epoch for row in begun}
    found: list[_InHand] = []
    for key, epoch in last.items():
        row = connection.execute(
            _TAKEN_OVER.where(tuple_(steps.c.experiment_id, steps.c.seq) == key)
        ).one()
        if row.epoch > epoch and not _ended(connection, key, epoch):
            found.append(
                _InHand(
                    experiment_id=key[0],
                    seq=key[1],
                    name=row.experiment,
                    step=row.name,
                    became=_became(row),
                )
            )
    return found


_TAKEN_OVER: Final = select(
    steps.c.name,
    steps.c.state,
    steps.c.worker,
    steps.c.epoch,
    experiments.c.name.label("experiment"),
).join_from(steps, experiments, experiments.c.id == steps.c.experiment_id)


def _ended(connection: Connection, key: tuple[str, int], epoch: int) -> bool:
    """Whether the holder of an epoch ended the step itself."""
    ended = select(events.c.id).where(
        events.c.experiment_id == key[0],
        events.c.seq == key[1],
        events.c.epoch == epoch,
        events.c.state != StepState.RUNNING.value,
    )
    return connection.execute(ended.limit(1)).first() is not None


def _became(row: Any) -> str:
    state = StepState(row.state)
    if state is StepState.RUNNING:
        return f"taken over by {row.worker}"
    if state is StepState.READY:
        return "waiting"
    return str(state).lower().replace("_", " ")


def _note(connection: Connection, in_hand: Sequence[_InHand], reason: str) -> None:
    """Let the experiments' logs and explanations say what happened."""
    for one in in_hand:
        give_reason(connection, one.experiment_id, one.seq, reason)
    touched = dict.fromkeys(one.experiment_id for one in in_hand)
    if touched:
        # of their logs alone: it is no change of their state, so it does not go out
        detail = {"reason": reason}
        rows = [event(id_, WORKER_EVENT, detail=detail) | {"published": 1} for id_ in touched]
        log_many(connection, rows)


def _named(one: _InHand) -> dict[str, str]:
    return {
        "experiment": one.experiment_id,
        "name": one.name,
        "step": one.step,
        "became": one.became,
    }
