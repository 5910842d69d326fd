"""What a poll found out about a job, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, func, select, update

from wlm_tasks.model.states import LIVE_JOBS, ExperimentState, JobRecord, StepState
from wlm_tasks.model.steps import StepName
from wlm_tasks.state.advance import (
    NextStep,
    advance,
    literal_states,
    make_ready,
    set_experiment,
)
from wlm_tasks.state.schema import db_now, jobs, steps


@dataclass(frozen=True, kw_only=True)
class JobReport:
    """How one job stands by the evidence of its site. Times are seconds since the epoch."""

    token: str
    state: JobRecord
    exit_code: int | None = None
    started_at: float | None = None
    ended_at: float | None = None
    reason: str | None = None
    max_jobs: int = 1  #: how many jobs the experiment may use in all, this one included


_RECORD = (
    update(jobs)
    .where(
        jobs.c.token == bindparam("b_token"),
        jobs.c.state != bindparam("b_state"),
        jobs.c.state.in_(literal_states("PENDING", "RUNNING")),
    )
    .values(
        state=bindparam("b_state"),
        exit_code=bindparam("b_exit_code"),
        started_at=func.coalesce(bindparam("b_started"), jobs.c.started_at),
        reason=bindparam("b_reason"),
    )
    .returning(jobs.c.experiment_id, jobs.c.number)
)
_RECORD_END = _RECORD.values(ended_at=func.coalesce(bindparam("b_ended"), db_now()))
_REASON = (
    update(jobs)
    .where(
        jobs.c.token == bindparam("b_token"),
        jobs.c.state == bindparam("b_state"),
        jobs.c.state.in_(literal_states("PENDING", "RUNNING")),
    )
    .values(reason=bindparam("b_reason"))
)
# locked: nobody may cancel between this look at the step and the move of it
_WATCHING = (
    select(steps.c.seq, steps.c.last)
    .where(
        steps.c.experiment_id == bindparam("b_experiment"),
        steps.c.name == StepName.MONITOR.value,
        steps.c.state == StepState.WATCHING.value,
    )
    .with_for_update()
)
_LOCKED = (
    select(steps.c.seq)
    .where(steps.c.experiment_id == bindparam("b_experiment"))
    .order_by(steps.c.seq)
    .with_for_update()
)


def record_job(connection: Connection, report: JobReport) -> NextStep | None:
    """Write down one report, once; returns the step that is ready because of it."""
    live = report.state in LIVE_JOBS
    params = {
        "b_token": report.token,
        "b_state": report.state.value,
        "b_exit_code": report.exit_code,
        "b_started": report.started_at,
        "b_reason": report.reason,
    }
    if not live:
        params["b_ended"] = report.ended_at
    job = connection.execute(_RECORD if live else _RECORD_END, params).one_or_none()
    if job is None:
        if live:  # it stands as before; why it waits may have changed
            known = {"b_token": report.token, "b_state": report.state.value}
            connection.execute(_REASON, {**known, "b_reason": report.reason})
        return None
    if live:
        if report.state is JobRecord.RUNNING:
            set_experiment(connection, job.experiment_id, ExperimentState.RUNNING)
        return None
    if _may_run_again(job, report):
        # the submit step is locked first: rows are locked in the order of the steps
        connection.execute(_LOCKED, {"b_experiment": job.experiment_id}).all()
    monitor = connection.execute(_WATCHING, {"b_experiment": job.experiment_id}).one_or_none()
    return None if monitor is None else _after_end(connection, job, monitor, report)


def _may_run_again(job: Any, report: JobReport) -> bool:
    return report.state is not JobRecord.SUCCEEDED and job.number < report.max_jobs


def _after_end(
    connection: Connection, job: Any, monitor: Any, report: JobReport
) -> NextStep | None:
    experiment_id, seq = job.experiment_id, monitor.seq
    detail = {"job": report.token, "exit_code": report.exit_code}
    if report.state is JobRecord.SUCCEEDED:
        advance(connection, experiment_id, seq, StepState.DONE, detail=detail, ended_at=True)
        if monitor.last:
            return None
        following = make_ready(connection, experiment_id, seq + 1)
        return NextStep(experiment_id, (StepName(following.name),), following.priority)
    reason = report.reason or "the job failed"
    detail["reason"] = reason
    if _may_run_again(job, report):
        again = make_ready(connection, experiment_id, seq - 1, tries=0, crashes=0)
        advance(connection, experiment_id, seq, StepState.WAITING, detail=detail, reason=reason)
        return NextStep(experiment_id, (StepName.SUBMIT,), again.priority)
    advance(
        connection,
        experiment_id,
        seq,
        StepState.FAILED,
        detail=detail,
        reason=reason,
        ended_at=True,
    )
    return None
