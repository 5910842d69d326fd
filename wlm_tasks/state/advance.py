"""The one writer of states.

Every move of a step goes through `advance`, every move of an experiment through
`set_experiment`. A move is a compare-and-set: the WHERE clause names the states the transition
table allows it from and, for a claimed step, the epoch of the claim. What does not match was
changed by somebody else, and the caller gets `FencedError` instead of a write.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from sqlalchemy import Connection, Row, Update, bindparam, insert, literal_column, update

from wlm_tasks.errors import FencedError
from wlm_tasks.model.states import (
    FINAL,
    ExperimentState,
    StepState,
    check_move,
    experiment_state,
    sources,
)
from wlm_tasks.model.steps import StepName
from wlm_tasks.state.schema import db_now, events, experiments, steps


@dataclass(frozen=True)
class NextStep:
    """A step that is ready and whose chain is to be sent now."""

    experiment_id: str
    segment: tuple[StepName, ...]  #: this step and those that follow it without a wait
    priority: int


def literal_states(*states: str) -> list[Any]:
    """States as SQL literals: a partial index is used only if its condition is spelt out."""
    return [literal_column(f"'{state}'") for state in states]


_ADDED_COLUMNS = {"lease_s": "lease_until", "due_s": "due_at"}


def _assignment(name: str, *, now: bool) -> tuple[str, Any]:
    """How a keyword of `advance` becomes a column and its value in SQL."""
    if now:
        return name, db_now()
    if name in _ADDED_COLUMNS:
        return _ADDED_COLUMNS[name], db_now() + bindparam(f"v_{name}")
    if name.endswith("_add"):
        column = name.removesuffix("_add")
        return column, steps.c[column] + bindparam(f"v_{name}")
    return name, bindparam(f"v_{name}")


def _sources(to: StepState, *, fenced: bool) -> tuple[StepState, ...]:
    if not fenced:
        return sources(to)
    check_move(StepState.RUNNING, to)
    return (StepState.RUNNING,)


@cache
def move_statement(
    to: StepState, names: tuple[tuple[str, bool], ...], *, fenced: bool, seq: str = "b_seq"
) -> Update:
    """The compare-and-set of a move that assigns these columns (True: the database's now).

    `seq` names the parameter that says which step of ``b_experiment`` is moved.
    """
    statement = update(steps).where(
        steps.c.experiment_id == bindparam("b_experiment"),
        steps.c.seq == bindparam(seq),
        # a claim holds only while its step runs, whatever else the table allows
        steps.c.state.in_(literal_states(*_sources(to, fenced=fenced))),
    )
    if fenced:
        statement = statement.where(steps.c.epoch == bindparam("b_epoch"))
    values: dict[str, Any] = {"state": to.value}
    values.update(_assignment(name, now=now) for name, now in names)
    if to is StepState.RUNNING or not fenced:
        values["epoch"] = steps.c.epoch + 1
    return statement.values(values).returning(*RETURNED)


#: What a successful move tells of the step.
RETURNED = (
    steps.c.experiment_id,
    steps.c.seq,
    steps.c.name,
    steps.c.queue,
    steps.c.last,
    steps.c.priority,
    steps.c.epoch,
    steps.c.started_at,
    steps.c.attempt,
    steps.c.tries,
    steps.c.crashes,
)


def advance(
    connection: Connection,
    experiment_id: str,
    seq: int,
    to: StepState,
    *,
    epoch: int | None = None,
    detail: Mapping[str, Any] | None = None,
    quiet: bool = False,
    **values: Any,
) -> Row[Any]:
    """Move one step and write down the move; returns the step as it is now.

    Without `epoch` the move does not come from the holder of a claim: it raises the epoch, so
    that a holder, if there is one, is fenced off. Keywords are columns; ``sent_at=True`` and the
    like mean the database's now, ``lease_s`` and ``due_s`` count seconds from it, ``tries_add``
    adds. `quiet` leaves out the event, for moves that tell nothing of their own.

    Raises `FencedError` if the step is not where the move starts, or the claim is not held.
    """
    names = tuple(sorted((name, value is True) for name, value in values.items()))
    params = {f"v_{name}": value for name, value in values.items() if value is not True}
    if epoch is not None:
        params["b_epoch"] = epoch
    row = connection.execute(
        move_statement(to, names, fenced=epoch is not None),
        {"b_experiment": experiment_id, "b_seq": seq, **params},
    ).one_or_none()
    if row is None:
        raise FencedError(f"{experiment_id}: step {seq} is not there to become {to}")
    record(connection, row, to, detail=detail, quiet=quiet, worker=values.get("worker"))
    return row


def make_ready(connection: Connection, experiment_id: str, seq: int, **values: Any) -> Row[Any]:
    """Open the next step; whoever asks sends its message right after the commit."""
    return advance(
        connection,
        experiment_id,
        seq,
        StepState.READY,
        quiet=True,
        ready_at=True,
        sent_at=True,
        **values,
    )


def record(
    connection: Connection,
    row: Row[Any],
    to: StepState,
    *,
    detail: Mapping[str, Any] | None = None,
    quiet: bool = False,
    worker: str | None = None,
) -> None:
    """Log a step's move and carry it over to its experiment."""
    if not quiet:
        log(
            connection,
            row.experiment_id,
            to,
            seq=row.seq,
            epoch=row.epoch,
            worker=worker,
            detail=detail,
        )
    state = experiment_state(StepName(row.name), to, last=row.last)
    if state is not None:
        reason = str(detail["reason"]) if detail and "reason" in detail else None
        set_experiment(connection, row.experiment_id, state, reason=reason)


#: Move an experiment, unless it is there already or may not go there any more.
SET_EXPERIMENT: Final = (
    update(experiments)
    .where(
        experiments.c.id == bindparam("b_experiment"),
        experiments.c.state != bindparam("b_state"),
        # Once a cancel is under way the only way on is its confirmation.
        (experiments.c.state != "CANCELLING") | (bindparam("b_state") == "CANCELLED"),
        # What has ended begins again with a retry only.
        experiments.c.state.not_in(literal_states(*sorted(FINAL)))
        | (bindparam("b_state") == "QUEUED"),
    )
    .values(state=bindparam("b_state"), reason=bindparam("b_reason"), updated_at=db_now())
)
END_EXPERIMENT: Final = SET_EXPERIMENT.values(ended_at=db_now())


def set_experiment(
    connection: Connection, experiment_id: str, state: ExperimentState, *, reason: str | None = None
) -> bool:
    """Move an experiment; True if that changed anything. Each change goes out on the exchange."""
    statement = END_EXPERIMENT if state in FINAL else SET_EXPERIMENT
    changed = connection.execute(
        statement, {"b_experiment": experiment_id, "b_state": state.value, "b_reason": reason}
    ).rowcount
    if changed:
        log(connection, experiment_id, state, detail={"reason": reason} if reason else None)
    return bool(changed)


_LOG = insert(events).values(at=db_now())


def log(
    connection: Connection,
    experiment_id: str | None,
    state: str,
    *,
    seq: int | None = None,
    epoch: int | None = None,
    worker: str | None = None,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Append one event. Events of an experiment as a whole are then published."""
    row = event(experiment_id, state, seq=seq, epoch=epoch, worker=worker, detail=detail)
    log_many(connection, [row])


def event(
    experiment_id: str | None,
    state: str,
    *,
    seq: int | None = None,
    epoch: int | None = None,
    worker: str | None = None,
    detail: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """One row for `log_many`."""
    return {
        "experiment_id": experiment_id,
        "seq": seq,
        "state": str(state),
        "epoch": epoch,
        "worker": worker,
        "detail": json.dumps(detail) if detail else None,
        "published": int(seq is not None),
    }


def log_many(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Append many events in one statement."""
    connection.execute(_LOG, list(rows))
