"""What holds of the rows at any time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select

from wlm_tasks.model.states import FINAL, ExperimentState, JobRecord, StepState
from wlm_tasks.model.steps import StepName
from wlm_tasks.state.schema import events, experiments, jobs, steps
from wlm_tasks.state.store import Store

MOVING = {StepState.READY, StepState.RUNNING, StepState.BACKOFF, StepState.WATCHING}
CURRENT = MOVING | {StepState.HELD, StepState.PAUSED}
LIVE = {JobRecord.INTENT, JobRecord.PENDING, JobRecord.RUNNING}
ES = ExperimentState
#: States an experiment may have while its current step is in this one.
FITTING: dict[StepState, set[ExperimentState]] = {
    StepState.HELD: {ES.QUEUED, ES.PREPARING},
    StepState.READY: {
        ES.QUEUED, ES.PREPARING, ES.FINISHING, ES.SUBMITTED, ES.RUNNING,
    },
    StepState.RUNNING: {ES.PREPARING, ES.FINISHING},
    StepState.BACKOFF: {ES.PREPARING, ES.FINISHING},
    StepState.WATCHING: {ES.SUBMITTED, ES.RUNNING},
    StepState.PAUSED: {ES.PAUSED},
}  # fmt: skip


class Rows:
    """What is in the tables now, and what was before."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.epochs: dict[tuple[str, int], int] = {}
        self.log: list[Any] = []

    def check(self) -> None:
        with self.store.database.read() as connection:
            found = {row.id: row for row in connection.execute(select(experiments))}
            log = connection.execute(select(events).order_by(events.c.id)).all()
            for experiment_id, row in found.items():
                of_it = connection.execute(
                    select(steps).where(steps.c.experiment_id == experiment_id)
                    .order_by(steps.c.seq)
                ).all()  # fmt: skip
                its_jobs = connection.execute(
                    select(jobs).where(jobs.c.experiment_id == experiment_id)
                ).all()
                self._check_steps(row, of_it)
                self._check_jobs(row, of_it, its_jobs)
                self._check_epochs(of_it)
        self._check_log(log)

    def _check_steps(self, experiment: Any, of_it: Sequence[Any]) -> None:
        state = ES(experiment.state)
        states = [StepState(step.state) for step in of_it]
        said = f"{state}: {states}"
        assert (experiment.ended_at is not None) == (state in FINAL), said
        if state in FINAL or state is ES.CANCELLING:
            assert not CURRENT & set(states), said
        if state is ES.DONE:
            assert set(states) == {StepState.DONE}, said
        if state is ES.FAILED:
            assert states.count(StepState.FAILED) == 1, said
        if state in (ES.CANCELLED, ES.CANCELLING):
            assert StepState.CANCELLED in states, said
            assert set(states) <= {StepState.DONE, StepState.CANCELLED}, said
        if state in FINAL or state is ES.CANCELLING:
            return
        current = [one for one in states if one in CURRENT]
        assert len(current) == 1, said
        place = states.index(current[0])
        assert set(states[:place]) <= {StepState.DONE}, said
        assert set(states[place + 1 :]) <= {StepState.WAITING}, said
        assert state in FITTING[current[0]], said

    def _check_jobs(self, experiment: Any, of_it: Sequence[Any], its_jobs: Sequence[Any]) -> None:
        live = [job for job in its_jobs if job.state in LIVE]
        assert len(live) <= 1, live
        if experiment.state == ES.DONE:
            assert not live, live
        [monitor] = [step for step in of_it if step.name == StepName.MONITOR]
        if monitor.state == StepState.WATCHING:
            # somebody looks after it, or it would wait for ever
            assert [job.state in (JobRecord.PENDING, JobRecord.RUNNING) for job in live] == [
                True
            ], live
        assert sorted(job.number for job in its_jobs) == list(range(1, len(its_jobs) + 1))
        for job in its_jobs:
            assert (job.ended_at is None) == (job.state in LIVE), job

    def _check_epochs(self, of_it: Sequence[Any]) -> None:
        for step in of_it:
            key = (step.experiment_id, step.seq)
            assert step.epoch >= self.epochs.get(key, 0), step
            self.epochs[key] = step.epoch
            assert step.attempt <= step.epoch, step
            if step.state == StepState.RUNNING:
                assert None not in (step.worker, step.message_id, step.lease_until), step
                assert step.ended_at is None, step
            elif step.state != StepState.CANCELLED:
                assert step.message_id is None, step

    def _check_log(self, log: Sequence[Any]) -> None:
        same = [(row.id, row.state, row.detail) for row in log[: len(self.log)]]
        assert same == self.log  # nothing was changed or removed
        self.log = [(row.id, row.state, row.detail) for row in log]
        times: dict[str, float] = {}
        for row in log:
            assert row.at >= times.get(row.experiment_id, 0) - 0.002
            times[row.experiment_id] = row.at
