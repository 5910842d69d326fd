"""Reading: the queries behind every list, page and explanation; they change nothing."""

from __future__ import annotations

import builtins
import json
import re
from collections.abc import Sequence
from itertools import islice
from typing import Any

from sqlalchemy import Row, Select, and_, func, or_, select

from wlm_tasks.errors import AmbiguousIdError, NotFoundError
from wlm_tasks.model import checksums
from wlm_tasks.model.states import ExperimentState, JobRecord, StepState
from wlm_tasks.model.steps import StepName
from wlm_tasks.state.database import Database
from wlm_tasks.state.schema import (
    IS_LIVE,
    IS_READY,
    attempts,
    db_now,
    events,
    experiments,
    is_open,
    jobs,
    steps,
    sweeps,
    transfers,
)
from wlm_tasks.state.views import (
    AttemptView,
    EventView,
    ExperimentView,
    Filter,
    JobView,
    RunningView,
    StepView,
    SweepView,
    TransferView,
)

_COLUMNS = [
    experiments.c[name]
    for name in ExperimentView.__dataclass_fields__  # the row is the view
]


#: What ids are made of; see `wlm_tasks.state.intake.new_id`.
_ID = re.compile(r"[a-z2-7-]*")


class Views:
    """Queries; they change nothing."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def experiment(self, experiment_id: str) -> ExperimentView:
        """One experiment by its whole id."""
        with self._database.read() as connection:
            row = connection.execute(
                select(*_COLUMNS).where(experiments.c.id == experiment_id)
            ).one_or_none()
        if row is None:
            raise NotFoundError(f"experiment: got {experiment_id!r}, expected the id of one")
        return _experiment_view(row)

    def states(self, ids: Sequence[str]) -> dict[str, ExperimentState]:
        """The states of many experiments."""
        with self._database.read() as connection:
            rows = connection.execute(
                select(experiments.c.id, experiments.c.state).where(experiments.c.id.in_(ids))
            )
            return {row.id: ExperimentState(row.state) for row in rows}

    def find(self, prefix: str) -> str:
        """The id of the experiment or sweep that begins with `prefix`; ``exp-`` may be left out."""
        prefixes = [prefix] if "-" in prefix else [f"exp-{prefix}", f"swp-{prefix}"]
        found: builtins.list[str] = []
        with self._database.read() as connection:
            for table in (experiments, sweeps):
                for start in prefixes if _ID.fullmatch(prefix) else ():
                    statement = select(table.c.id).where(
                        # the index's part, in whatever order the database has letters; then exact
                        table.c.id.between(start, start + "z" * 10),
                        func.substr(table.c.id, 1, len(start)) == start,
                    )
                    found += connection.execute(statement.limit(3)).scalars()
        if not found:
            raise NotFoundError(f"id: got {prefix!r}, and nothing begins like that; see: wlm ls")
        if len(found) > 1 and prefix not in found:
            raise AmbiguousIdError(f"id: got {prefix!r}, expected more of it: {', '.join(found)}")
        return prefix if prefix in found else found[0]

    def list(self, wanted: Filter) -> builtins.list[ExperimentView]:
        """Experiments, the newest first."""
        statement = _filtered(select(*_COLUMNS), wanted).order_by(
            experiments.c.created_at.desc(), experiments.c.member.desc()
        )
        if wanted.limit is not None and not wanted.labels:
            statement = statement.limit(wanted.limit)
        with self._database.read() as connection:
            views = map(_experiment_view, connection.execute(statement))
            fitting = (v for v in views if wanted.labels.items() <= v.labels.items())
            return list(islice(fitting, wanted.limit))

    def spec(self, experiment_id: str) -> str:
        """The bound experiment as JSON."""
        with self._database.read() as connection:
            spec = connection.execute(
                select(experiments.c.spec).where(experiments.c.id == experiment_id)
            ).scalar_one_or_none()
        if spec is None:
            raise NotFoundError(f"experiment: got {experiment_id!r}, expected the id of one")
        return str(spec)

    def steps(self, experiment_id: str) -> builtins.list[StepView]:
        """The steps of an experiment in their order."""
        with self._database.read() as connection:
            rows = connection.execute(
                select(steps).where(steps.c.experiment_id == experiment_id).order_by(steps.c.seq)
            )
            return [_step_view(row) for row in rows]

    def jobs(self, experiment_id: str) -> builtins.list[JobView]:
        """The jobs of an experiment, the newest last."""
        names = tuple(JobView.__dataclass_fields__)
        with self._database.read() as connection:
            rows = connection.execute(
                select(*(jobs.c[name] for name in names))
                .where(jobs.c.experiment_id == experiment_id)
                .order_by(jobs.c.number)
            )
            return [JobView(**{**row._asdict(), "state": JobRecord(row.state)}) for row in rows]

    def attempts(self, experiment_id: str) -> Sequence[AttemptView]:
        """Every try of every step of an experiment, the newest last."""
        with self._database.read() as connection:
            rows = connection.execute(
                select(*(attempts.c[name] for name in AttemptView.__dataclass_fields__))
                .where(attempts.c.experiment_id == experiment_id)
                .order_by(attempts.c.started_at, attempts.c.seq, attempts.c.epoch)
            )
            return [AttemptView(**row._asdict()) for row in rows]

    def transfers(self, experiment_id: str) -> builtins.list[TransferView]:
        """What the transfers of an experiment have brought, in order."""
        statement = (
            select(steps.c.name, transfers)
            .join_from(
                transfers,
                steps,
                and_(
                    steps.c.experiment_id == transfers.c.experiment_id,
                    steps.c.seq == transfers.c.seq,
                ),
            )
            .where(transfers.c.experiment_id == experiment_id)
            .order_by(transfers.c.seq, transfers.c.number)
        )
        with self._database.read() as connection:
            return [
                TransferView(
                    step=StepName(row.name),
                    number=row.number,
                    files=row.files,
                    bytes=row.bytes,
                    sha256=row.sha256,
                    digests=checksums.read(row.checksums.encode()) if row.checksums else None,
                    at=row.at,
                )
                for row in connection.execute(statement)
            ]

    def events(
        self, experiment_id: str | None = None, *, after: int = 0, limit: int = 1000
    ) -> builtins.list[EventView]:
        """The event log of one experiment, or of all, in order, after the event `after`."""
        statement = select(events).where(events.c.id > after).order_by(events.c.id).limit(limit)
        if experiment_id is not None:
            statement = statement.where(events.c.experiment_id == experiment_id)
        with self._database.read() as connection:
            return [
                EventView(
                    id=row.id,
                    at=row.at,
                    experiment_id=row.experiment_id,
                    step=row.seq,
                    state=row.state,
                    epoch=row.epoch,
                    worker=row.worker,
                    detail=json.loads(row.detail) if row.detail else {},
                )
                for row in connection.execute(statement)
            ]

    def sweep(self, sweep_id: str) -> SweepView:
        """One sweep by its whole id."""
        with self._database.read() as connection:
            row = connection.execute(select(sweeps).where(sweeps.c.id == sweep_id)).one_or_none()
            if row is None:
                raise NotFoundError(f"sweep: got {sweep_id!r}, expected the id of one")
            counts = connection.execute(
                select(experiments.c.state, func.count())
                .where(experiments.c.sweep_id == sweep_id)
                .group_by(experiments.c.state)
            )
            return SweepView(
                id=row.id,
                name=row.name,
                key=row.key,
                size=row.size,
                max_active=row.max_active,
                created_at=row.created_at,
                states={ExperimentState(state): count for state, count in counts},
            )

    def ahead(self, queue: str, priority: int, ready_at: float) -> int:
        """Ready steps that go before one of this priority and age in its queue."""
        with self._database.read() as connection:
            return connection.execute(
                select(func.count())
                .select_from(steps)
                .where(
                    IS_READY,
                    steps.c.queue == queue,
                    or_(
                        steps.c.priority > priority,
                        (steps.c.priority == priority) & (steps.c.ready_at < ready_at),
                    ),
                )
            ).scalar_one()

    def waiting(self) -> dict[str, int]:
        """Ready steps by queue."""
        with self._database.read() as connection:
            rows = connection.execute(
                select(steps.c.queue, func.count()).where(IS_READY).group_by(steps.c.queue)
            )
            return dict(tuple(row) for row in rows)

    def running(self) -> builtins.list[RunningView]:
        """The steps that workers work on, the oldest first."""
        with self._database.read() as connection:
            rows = connection.execute(
                select(steps.c.worker, steps.c.experiment_id, steps.c.name, steps.c.started_at)
                .where(is_open(StepState.RUNNING))
                .order_by(steps.c.started_at)
            )
            return [
                RunningView(
                    worker=row.worker or "",
                    experiment_id=row.experiment_id,
                    step=row.name,
                    since=row.started_at,
                )
                for row in rows
            ]

    def steps_of(self, ids: Sequence[str]) -> dict[str, builtins.list[StepView]]:
        """The steps of several experiments, by experiment."""
        found: dict[str, builtins.list[StepView]] = {one: [] for one in ids}
        statement = select(steps).order_by(steps.c.experiment_id, steps.c.seq)
        with self._database.read() as connection:
            for start in range(0, len(ids), 500):
                part = steps.c.experiment_id.in_(ids[start : start + 500])
                for row in connection.execute(statement.where(part)):
                    found[row.experiment_id].append(_step_view(row))
        return found

    def newest_event(self) -> int:
        """The number of the newest event, 0 before the first."""
        with self._database.read() as connection:
            return connection.execute(select(func.max(events.c.id))).scalar_one() or 0

    def live_jobs(self) -> dict[str, int]:
        """Jobs that are on their way to a site or on it, by site."""
        with self._database.read() as connection:
            rows = connection.execute(
                select(jobs.c.site, func.count()).where(IS_LIVE).group_by(jobs.c.site)
            )
            return dict(tuple(row) for row in rows)

    def counts(self) -> dict[ExperimentState, int]:
        """Experiments by state."""
        with self._database.read() as connection:
            rows = connection.execute(
                select(experiments.c.state, func.count()).group_by(experiments.c.state)
            )
            return {ExperimentState(state): count for state, count in rows}

    def now(self) -> float:
        """The database's clock."""
        with self._database.read() as connection:
            return float(connection.execute(select(db_now())).scalar_one())


def _filtered(statement: Select[Any], wanted: Filter) -> Select[Any]:
    if wanted.states:
        statement = statement.where(experiments.c.state.in_([s.value for s in wanted.states]))
    for name in ("owner", "project", "site", "sweep_id"):
        value = getattr(wanted, name)
        if value is not None:
            statement = statement.where(experiments.c[name] == value)
    if wanted.name is not None:
        statement = statement.where(experiments.c.name.icontains(wanted.name, autoescape=True))
    for name, value in wanted.labels.items():
        # Leaves few to look at; SQLite takes "a" for "A" here.
        pair = f"{json.dumps(name)}: {json.dumps(value)}"
        statement = statement.where(experiments.c.labels.contains(pair, autoescape=True))
    return statement


def _experiment_view(row: Row[Any]) -> ExperimentView:
    values = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public API
    values["state"] = ExperimentState(row.state)
    values["params"] = json.loads(row.params)
    values["labels"] = json.loads(row.labels)
    return ExperimentView(**values)


def _step_view(row: Row[Any]) -> StepView:
    return StepView(
        seq=row.seq,
        name=StepName(row.name),
        queue=row.queue,
        priority=row.priority,
        state=StepState(row.state),
        epoch=row.epoch,
        attempts=row.attempt,
        tries=row.tries,
        crashes=row.crashes,
        worker=row.worker,
        ready_at=row.ready_at,
        sent_at=row.sent_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        due_at=row.due_at,
        reason=row.reason,
        progress=json.loads(row.progress) if row.progress else None,
    )
