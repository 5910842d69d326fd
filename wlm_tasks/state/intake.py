"""Taking experiments in, and the changes their owners ask for: cancel, retry, resume."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from wlm_tasks.errors import (
    IllegalTransitionError,
    KeyConflictError,
    NotFoundError,
    ServiceError,
)
from wlm_tasks.model.cleanup import Cleanup, CleanupPolicy
from wlm_tasks.model.states import (
    FINAL,
    LIVE_JOBS,
    ExperimentState,
    JobRecord,
    StepState,
    sources,
)
from wlm_tasks.model.steps import PlannedStep, StepName
from wlm_tasks.state.advance import (
    advance,
    event,
    literal_states,
    log,
    log_many,
    set_experiment,
)
from wlm_tasks.state.boundaries import intake_boundary
from wlm_tasks.state.cleaning import FORGOTTEN, refuse_removed
from wlm_tasks.state.database import Database
from wlm_tasks.state.schema import IS_LIVE, db_now, experiments, jobs, steps, sweeps, transfers

_CHUNK = 2000
_KEEP = Cleanup()


@dataclass(frozen=True, kw_only=True)
class NewExperiment:
    """One experiment to take in, everything already checked and bound."""

    id: str
    name: str
    site: str
    priority: int
    spec: str  #: the bound experiment as JSON
    fingerprint: str
    steps: Sequence[PlannedStep]
    key: str | None = None
    owner: str | None = None
    project: str | None = None
    params: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    cleanup: Cleanup = _KEEP  #: its own, or else its site's


@dataclass(frozen=True, kw_only=True)
class NewSweep:
    """A sweep to take in with its members."""

    id: str
    name: str
    fingerprint: str
    size: int
    key: str | None = None
    max_active: int | None = None
    stop_on_failure: bool = False  #: cancel members that have not started when one fails


def new_id(prefix: str) -> str:
    """A fresh id: the prefix and 50 random bits in ten characters."""
    number = secrets.randbits(50) << 6
    text = base64.b32encode(number.to_bytes(7, "big")).decode().lower()
    return f"{prefix}-{text[:10]}"


class Intake:
    """Writes new experiments and what their owners ask for."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, new: NewExperiment, *, sent: bool) -> str:
        """Store one experiment; returns its id, or the id stored before under the same key.

        `sent` says that the caller sends its first chain right after. Raises
        `KeyConflictError` if the key belongs to a different experiment.
        """
        row = {f"b_{name}": value for name, value in _row(new).items()}
        parameters = {**row, "b_detail": json.dumps(_accepted(new))}
        try:
            self._database.swift.run(intake_boundary(tuple(new.steps), sent=sent), parameters)
        except IntegrityError as error:
            return self._existing(experiments, new.key, new.fingerprint, error)
        return new.id

    def add_sweep(self, sweep: NewSweep, members: Sequence[NewExperiment]) -> str:
        """Store a sweep with all its members, in one transaction; keys as in `add`."""
        active = sweep.max_active if sweep.max_active is not None else len(members)
        try:
            with self._database.write() as connection:
                connection.execute(
                    insert(sweeps).values(
                        id=sweep.id,
                        key=sweep.key,
                        fingerprint=sweep.fingerprint,
                        name=sweep.name,
                        size=sweep.size,
                        max_active=sweep.max_active,
                        stop_on_failure=sweep.stop_on_failure,
                        created_at=db_now(),
                    )
                )
                for start in range(0, len(members), _CHUNK):
                    _insert_members(
                        connection, sweep.id, members[start : start + _CHUNK], start, active
                    )
        except IntegrityError as error:
            return self._existing(sweeps, sweep.key, sweep.fingerprint, error)
        return sweep.id

    def _existing(
        self, table: Any, key: str | None, fingerprint: str, error: IntegrityError
    ) -> str:
        row = None
        if key is not None:
            with self._database.read() as connection:
                row = connection.execute(
                    select(table.c.id, table.c.fingerprint).where(table.c.key == key)
                ).one_or_none()
        if row is None:  # not the key then: an id that another one has
            raise ServiceError(f"the database refused it, try again: {error.orig}") from error
        if row.fingerprint != fingerprint:
            raise KeyConflictError(
                f"key: got {key!r}, expected a new key: {row.id} has it and is different"
            )
        return str(row.id)

    def cancel(self, experiment_id: str, reason: str = "cancelled") -> ExperimentState:
        """Stop an experiment for good; returns CANCELLED, or CANCELLING while a job may live.

        Every open step is cancelled with a raised epoch, so that whoever works on one can write
        nothing any more. An experiment that has ended keeps its state.
        """
        with self._database.write() as connection:
            row = _experiment(connection, experiment_id)
            state = ExperimentState(row.state)
            if state in FINAL or state is ExperimentState.CANCELLING:
                return state
            _cancel_steps(connection, [experiment_id], reason)
            live = connection.execute(
                select(func.count())
                .select_from(jobs)
                .where(
                    jobs.c.experiment_id == experiment_id,
                    IS_LIVE,
                )
            ).scalar_one()
            state = ExperimentState.CANCELLING if live else ExperimentState.CANCELLED
            set_experiment(connection, experiment_id, state, reason=reason)
            return state

    def retry(self, experiment_id: str, name: StepName | None = None) -> StepName:
        """Run an ended or paused experiment again from a step; returns that step.

        Without a name: from the first step that is not done, and from `submit` if that is the
        job itself. Steps before it keep their work. Where the directory was removed after the end
        it begins anew.
        """
        with self._database.write() as connection:
            row = _experiment(connection, experiment_id)
            if row.state not in {*FINAL, ExperimentState.PAUSED}:
                raise IllegalTransitionError(
                    f"{experiment_id}: is {row.state}; only what is paused or ended can be retried"
                )
            rows = connection.execute(
                select(steps).where(steps.c.experiment_id == experiment_id).order_by(steps.c.seq)
            ).all()
            gone = refuse_removed(row, name)
            start = rows[0] if gone else _retry_from(experiment_id, rows, name)
            _refuse_live_job(connection, row, StepName(start.name))
            _rewind(connection, experiment_id, rows, start)
            return StepName(start.name)


def _insert_members(
    connection: Connection, sweep_id: str, new: Sequence[NewExperiment], first: int, active: int
) -> None:
    now = db_now()
    connection.execute(
        insert(experiments).values(created_at=now, updated_at=now),
        [
            {**_row(one), "sweep_id": sweep_id, "member": first + index}
            for index, one in enumerate(new)
        ],
    )
    rows = list(_step_rows(new, active - first))
    connection.execute(insert(steps).values(ready_at=now), rows)
    log_many(
        connection,
        [event(one.id, ExperimentState.QUEUED, detail=_accepted(one)) for one in new],
    )


def _row(new: NewExperiment) -> dict[str, Any]:
    keeps = new.cleanup.policy is CleanupPolicy.KEEP
    return {
        "id": new.id,
        "key": new.key,
        "fingerprint": new.fingerprint,
        "name": new.name,
        "owner": new.owner,
        "project": new.project,
        "site": new.site,
        "priority": new.priority,
        "state": ExperimentState.QUEUED.value,
        "spec": new.spec,
        "params": json.dumps(new.params),
        "labels": json.dumps(new.labels),
        "cleanup": None if keeps else str(new.cleanup.policy),
        "cleanup_after_s": None if keeps else new.cleanup.after_s,
    }


def _accepted(new: NewExperiment) -> dict[str, Any]:
    """What the first event of an experiment says."""
    return {"name": new.name, "key": new.key} if new.key else {"name": new.name}


def _step_rows(new: Sequence[NewExperiment], active: int) -> Iterable[dict[str, Any]]:
    """The steps of members of which the first so many may start."""
    for index, one in enumerate(new):
        last = len(one.steps) - 1
        first = StepState.READY if index < active else StepState.HELD
        for step in one.steps:
            yield {
                "experiment_id": one.id,
                "seq": step.seq,
                "name": step.name.value,
                "queue": step.queue,
                "last": step.seq == last,
                "priority": one.priority,
                "state": (first if step.seq == 0 else StepState.WAITING).value,
            }


def _experiment(connection: Connection, experiment_id: str) -> Row[Any]:
    """The experiment, locked after its steps as every other writer locks them."""
    connection.execute(
        select(steps.c.seq)
        .where(steps.c.experiment_id == experiment_id)
        .order_by(steps.c.seq)
        .with_for_update()
    ).all()
    row = connection.execute(
        select(experiments).where(experiments.c.id == experiment_id).with_for_update()
    ).one_or_none()
    if row is None:
        raise NotFoundError(f"experiment: got {experiment_id!r}, expected the id of one")
    return row


def _cancel_steps(connection: Connection, ids: Sequence[str], reason: str) -> None:
    rows = connection.execute(
        update(steps)
        .where(
            steps.c.experiment_id.in_(ids),
            steps.c.state.in_(literal_states(*sources(StepState.CANCELLED))),
        )
        .values(
            state=StepState.CANCELLED.value,
            epoch=steps.c.epoch + 1,
            reason=reason,
            ended_at=db_now(),
        )
        .returning(steps.c.experiment_id, steps.c.seq, steps.c.epoch)
    ).all()
    if rows:
        log_many(
            connection,
            [
                event(row.experiment_id, StepState.CANCELLED, seq=row.seq, epoch=row.epoch)
                for row in rows
            ],
        )


def _retry_from(experiment_id: str, rows: Sequence[Row[Any]], name: StepName | None) -> Row[Any]:
    by_name = {row.name: row for row in rows}
    if name is not None:
        if name not in by_name:
            known = ", ".join(by_name)
            raise NotFoundError(f"step: got {name!r}, {experiment_id} has {known}")
        start = by_name[name]
    else:
        start = next((row for row in rows if row.state != StepState.DONE), rows[0])
    if start.name == StepName.MONITOR:
        start = by_name[StepName.SUBMIT]
    undone = next((row for row in rows if row.state != StepState.DONE), None)
    if undone is not None and undone.seq < start.seq:
        raise IllegalTransitionError(
            f"{experiment_id}: cannot retry from {start.name} before {undone.name} is done"
        )
    return start


def _refuse_live_job(connection: Connection, experiment: Row[Any], name: StepName) -> None:
    if name is StepName.STAGE_OUT:
        return
    # A paused submit goes on with its intent. That of one that has ended is being cancelled,
    # and a new attempt must not get its token; nor may its input change under it.
    paused = experiment.state == ExperimentState.PAUSED
    goes_on = paused and name is StepName.SUBMIT
    live = connection.execute(
        select(jobs.c.token).where(
            jobs.c.experiment_id == experiment.id,
            jobs.c.state.in_(LIVE_JOBS - {JobRecord.INTENT} if goes_on else LIVE_JOBS),
        )
    ).first()
    if live is not None:
        remedy = "retry from submit or cancel it" if paused else "it is being ended; try again"
        raise IllegalTransitionError(f"{experiment.id}: its job {live.token} may run: {remedy}")


def _rewind(
    connection: Connection, experiment_id: str, rows: Sequence[Row[Any]], start: Row[Any]
) -> None:
    for row in rows:
        if row.seq < start.seq:
            continue
        to = StepState.READY if row.seq == start.seq else StepState.WAITING
        if row.state == to:
            continue
        more: dict[str, Any] = {"ready_at": True} if to is StepState.READY else {}
        if not row.state == StepState.PAUSED == start.state:
            more["progress"] = None  # only what is resumed in place goes on from where it was
            connection.execute(
                delete(transfers).where(
                    transfers.c.experiment_id == experiment_id, transfers.c.seq == row.seq
                )
            )
        advance(
            connection,
            experiment_id,
            row.seq,
            to,
            quiet=True,
            tries=0,
            crashes=0,
            reason=None,
            sent_at=None,
            ended_at=None,
            lease_until=None,
            message_id=None,
            due_at=None,
            **more,
        )
    log(connection, experiment_id, "RETRIED", seq=start.seq, detail={"from": start.name})
    connection.execute(
        update(experiments)
        .where(experiments.c.id == experiment_id)
        .values(ended_at=None, cancel_sent_at=None, **FORGOTTEN)
    )
    set_experiment(connection, experiment_id, ExperimentState.QUEUED)
