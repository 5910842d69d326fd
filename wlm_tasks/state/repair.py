"""What needs a person: jobs of which it is not known how they stand, and how that is settled.

Every write here names what it found, like any other: if a worker, a poll or another person was
faster, nothing is written.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Select, func, select, true, update

from wlm_tasks.errors import IllegalTransitionError
from wlm_tasks.model.arrays import InArray, in_array
from wlm_tasks.model.states import FINAL, ExperimentState, JobRecord, StepState
from wlm_tasks.model.steps import StepName
from wlm_tasks.state.advance import advance, log, set_experiment
from wlm_tasks.state.database import Database
from wlm_tasks.state.holders import Claim, claim_of
from wlm_tasks.state.schema import IS_LIVE, db_now, experiments, is_open, jobs, steps

_WATCHED: Final = [JobRecord.PENDING.value, JobRecord.RUNNING.value]
_OVER: Final = [state.value for state in (ExperimentState.CANCELLING, *sorted(FINAL))]


class Kind(StrEnum):
    """What is unclear about a job."""

    UNDECIDED = "undecided"  #: whether its site took it
    UNKNOWN = "unknown"  #: how it stands
    ORPHAN = "orphan"  #: whether it is gone, though nobody waits for it any more


@dataclass(frozen=True, kw_only=True)
class Case:
    """One job that a person should look at. Times are seconds since the epoch."""

    kind: Kind
    experiment_id: str
    token: str
    site: str
    workdir: str
    native_id: str | None
    since: float
    reason: str | None
    array_name: str | None = None
    array_index: int | None = None

    @property
    def array(self) -> InArray | None:
        """Its place among jobs handed to the site together, None for a job by itself."""
        return in_array(self.array_name, self.array_index)


def _cases(since: Any, reason: Any, *conditions: Any) -> Select[Any]:
    return (
        select(
            jobs.c.experiment_id,
            jobs.c.token,
            jobs.c.site,
            jobs.c.workdir,
            jobs.c.native_id,
            jobs.c.array_name,
            jobs.c.array_index,
            since.label("since"),
            reason.label("reason"),
        )
        .select_from(jobs)
        .join(experiments, experiments.c.id == jobs.c.experiment_id)
        .where(IS_LIVE, *conditions)
        .order_by(since, jobs.c.token)
    )


_OPEN_CASES: Final[dict[Kind, Select[Any]]] = {
    Kind.UNDECIDED: _cases(
        jobs.c.created_at, steps.c.reason, jobs.c.state == JobRecord.INTENT.value, is_open("PAUSED")
    ).join(
        steps,
        (steps.c.experiment_id == jobs.c.experiment_id) & (steps.c.name == StepName.SUBMIT.value),
    ),
    Kind.ORPHAN: _cases(
        func.coalesce(experiments.c.ended_at, experiments.c.updated_at),
        experiments.c.reason,
        experiments.c.state.in_(_OVER),
    ),
    Kind.UNKNOWN: _cases(
        func.coalesce(jobs.c.unknown_at, jobs.c.created_at),
        jobs.c.reason,
        jobs.c.state.in_(_WATCHED),
        experiments.c.state.not_in(_OVER),
    ),
}
#: When each is for a person; those that are not yet may settle themselves.
_LONG: Final[dict[Kind, Callable[[float], ColumnElement[bool]]]] = {
    Kind.UNDECIDED: lambda _seconds: true(),
    Kind.ORPHAN: lambda seconds: (
        func.coalesce(experiments.c.ended_at, experiments.c.updated_at) <= db_now() - seconds
    ),
    Kind.UNKNOWN: lambda seconds: jobs.c.unknown_at <= db_now() - seconds,
}


class Repair:
    """Finds what needs a person, and writes what the person has found out."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def cases(self, long_s: float) -> list[Case]:
        """Everything that is undecided, or was unknown or not confirmed as gone for `long_s`."""
        with self._database.read() as connection:
            return [
                Case(kind=kind, **row._asdict())
                for kind, statement in _OPEN_CASES.items()
                for row in connection.execute(statement.where(_LONG[kind](long_s)))
            ]

    def case(self, experiment_id: str) -> Case:
        """What a person could settle about one experiment now.

        Raises `IllegalTransitionError` if that is nothing.
        """
        with self._database.read() as connection:
            for kind, statement in _OPEN_CASES.items():
                mine = statement.where(jobs.c.experiment_id == experiment_id)
                if (row := connection.execute(mine).first()) is not None:
                    return Case(kind=kind, **row._asdict())
        raise IllegalTransitionError(
            f"{experiment_id}: has neither a submission that is undecided and paused nor a job on"
            " its site; see: wlm why"
        )

    def take(self, case: Case, *, who: str, lease_s: float) -> Claim:
        """Claim the paused submit of an undecided job, to record what was found out.

        If its holder dies, the claim runs out and a worker goes on, which looks before it
        submits. Raises `IllegalTransitionError` if the case is settled already.
        """
        with self._database.write() as connection:
            seq = _paused_submit(connection, case)
            advance(connection, case.experiment_id, seq, StepState.READY, quiet=True)
            row = advance(
                connection,
                case.experiment_id,
                seq,
                StepState.RUNNING,
                worker=who,
                message_id=f"repair-{secrets.token_hex(8)}",
                lease_s=lease_s,
                attempt_add=1,
                started_at=True,
                ended_at=None,
                reason=None,
            )
            return claim_of(row)

    def absent(self, case: Case, *, who: str) -> None:
        """The undecided job does not exist: its token is never used again, a new one may be.

        Raises `IllegalTransitionError` if the case is settled already.
        """
        reason = f"never existed, says {who}"
        with self._database.write() as connection:
            seq = _paused_submit(connection, case)
            connection.execute(
                update(jobs)
                .where(jobs.c.token == case.token, jobs.c.state == JobRecord.INTENT.value)
                .values(state=JobRecord.REJECTED.value, ended_at=db_now(), reason=reason)
            )
            advance(
                connection,
                case.experiment_id,
                seq,
                StepState.READY,
                quiet=True,
                tries=0,
                crashes=0,
                ready_at=True,
                sent_at=None,
                ended_at=None,
                reason=None,
            )
            detail = {"job": case.token, "reason": reason}
            log(connection, case.experiment_id, "REPAIRED", seq=seq, detail=detail)
            set_experiment(connection, case.experiment_id, ExperimentState.QUEUED)

    def rename(self, case: Case, native_id: str) -> None:
        """The job has this id on its site, not the one written down.

        Raises `IllegalTransitionError` if it has ended meanwhile, or has another id by now.
        """
        with self._database.write() as connection:
            same = (
                jobs.c.native_id.is_(None)
                if case.native_id is None
                else jobs.c.native_id == case.native_id
            )
            changed = connection.execute(
                update(jobs)
                .where(jobs.c.token == case.token, IS_LIVE, same)
                .values(native_id=native_id, unknown_at=None)
            ).rowcount
            if not changed:
                raise _settled(case)


def _paused_submit(connection: Connection, case: Case) -> int:
    """The number of the case's submit step, locked, with its job still undecided."""
    locked = connection.execute(
        select(steps.c.seq, steps.c.name, steps.c.state)
        .where(steps.c.experiment_id == case.experiment_id)
        .order_by(steps.c.seq)
        .with_for_update()
    ).all()
    intent = connection.execute(
        select(jobs.c.token).where(
            jobs.c.token == case.token, jobs.c.state == JobRecord.INTENT.value
        )
    ).first()
    for step in locked:
        if (step.name, step.state) == (StepName.SUBMIT, StepState.PAUSED) and intent is not None:
            return int(step.seq)
    raise _settled(case)


def _settled(case: Case) -> IllegalTransitionError:
    return IllegalTransitionError(
        f"{case.experiment_id}: job {case.token} is no longer {case.kind}; see: wlm why"
    )
