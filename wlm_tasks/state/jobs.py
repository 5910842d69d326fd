"""The books on jobs: an intent before anything is sent, evidence before anything has ended."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from wlm_tasks.errors import FencedError
from wlm_tasks.model.arrays import InArray, in_array
from wlm_tasks.model.states import FINAL, LIVE_JOBS, ExperimentState, JobRecord, StepState
from wlm_tasks.model.steps import StepName
from wlm_tasks.state.accepted import Accepted, Way
from wlm_tasks.state.advance import NextStep, advance, set_experiment
from wlm_tasks.state.boundaries import INTENT, ended_boundary, submitted_boundary
from wlm_tasks.state.claims import claim_ready
from wlm_tasks.state.database import Database
from wlm_tasks.state.holders import Claim, Holder, claim_of
from wlm_tasks.state.intents import (
    FirstJob,
    Held,
    Intent,
    first_intent,
    job_token,
    parameters,
)
from wlm_tasks.state.politeness import NO_LIMIT, SiteLimits, refusal
from wlm_tasks.state.reports import JobReport, record_job
from wlm_tasks.state.schema import IS_LIVE, db_now, experiments, jobs, steps


@dataclass(frozen=True, kw_only=True)
class LiveJob:
    """A job that has not ended, as far as we know."""

    token: str
    experiment_id: str
    site: str
    workdir: str
    native_id: str | None
    state: JobRecord
    spec: str  #: the experiment as JSON
    reason: str | None  #: in the site's words, such as why it waits
    unknown: bool = False  #: its site could not tell about it
    array: InArray | None = None


_LIVE_JOBS = (
    select(
        jobs.c.token,
        jobs.c.experiment_id,
        jobs.c.site,
        jobs.c.workdir,
        jobs.c.native_id,
        jobs.c.state,
        jobs.c.reason,
        jobs.c.unknown_at,
        jobs.c.array_name,
        jobs.c.array_index,
        experiments.c.spec,
    )
    .join(experiments, experiments.c.id == jobs.c.experiment_id)
    .where(IS_LIVE)
)


class Jobs:
    """Everything written about jobs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def intend(
        self,
        claim: Claim,
        *,
        site: str,
        workdir: str,
        limits: SiteLimits = NO_LIMIT,
    ) -> Intent | Held:
        """Commit the intent to submit a job; its token stays the same until that job has ended.

        Raises `FencedError` if the claim is no longer held. If the site's limits leave no
        room, the step is held instead.
        """
        if not limits:
            job = FirstJob(site=site, workdir=workdir)
            made = self._database.swift.run(
                INTENT,
                {**claim.key, "b_since": claim.since, **parameters(claim.experiment_id, job)},
            )
            if "intent" in made:
                return first_intent(claim.experiment_id, job)
        with self._database.write() as connection:
            return intend(connection, claim, site=site, workdir=workdir, limits=limits)

    def submitted(
        self,
        claim: Claim,
        token: str,
        native_id: str,
        *,
        report: JobReport | None = None,
        carry_on: Holder | None = None,
    ) -> NextStep | Claim | None:
        """The site has the job: the submit step is done, the monitor step watches.

        `report` is given by a site that knows at once how the job stands. Returns the step
        whose chain is to be sent now, or its claim if `carry_on` took it in the same
        transaction, or None while the job runs. Raises `FencedError` if the claim is no longer
        held.
        """
        one = Accepted(
            claim=claim, token=token, native_id=native_id, report=report, carry_on=carry_on
        )
        [following] = self.submitted_all([one])
        return self.submitted_else(one) if following is Way.ELSEHOW else following

    def submitted_all(self, accepted: Sequence[Accepted]) -> list[NextStep | Claim | Way | None]:
        """Record jobs of one kind that sites have, in one transaction, if they go the usual way.

        Returns for each what `submitted` does, or `Way.ELSEHOW`: nothing was recorded of that,
        `submitted_else` does it or says why it cannot.
        """
        if len({one.kind for one in accepted}) > 1:
            raise ValueError("jobs of different kinds: each kind has a transaction of its own")
        kind = accepted[0].kind
        if not kind.usual:
            return [Way.ELSEHOW] * len(accepted)
        boundary = ended_boundary(queues=kind.queues) if kind.over else submitted_boundary()
        ordered = sorted(accepted, key=lambda one: one.claim.experiment_id)  # as all lock them
        made = self._database.swift.run_all(boundary, [one.parameters for one in ordered])
        found = {id(one): _following(one, rows) for one, rows in zip(ordered, made, strict=True)}
        return [found[id(one)] for one in accepted]

    def submitted_else(self, one: Accepted) -> NextStep | Claim | None:
        """Record a job that a site has, however its experiment stands."""
        claim, token = one.claim, one.token
        with self._database.write() as connection:
            self._done(connection, claim)
            connection.execute(
                update(jobs)
                .where(jobs.c.token == token, jobs.c.state == JobRecord.INTENT.value)
                .values(state=JobRecord.PENDING.value, native_id=one.native_id)
            )
            advance(
                connection,
                claim.experiment_id,
                claim.seq + 1,
                StepState.WATCHING,
                detail={"job": token, "native_id": one.native_id},
                started_at=True,
                ready_at=True,
            )
            following = record_job(connection, one.report) if one.report is not None else None
            if following is None or one.carry_on is None:
                return following
            return claim_ready(connection, following, one.carry_on) or following

    def _done(self, connection: Connection, claim: Claim) -> None:
        advance(
            connection,
            claim.experiment_id,
            claim.seq,
            StepState.DONE,
            epoch=claim.epoch,
            lease_until=None,
            message_id=None,
            ended_at=True,
        )

    def rejected(self, claim: Claim, intent: Intent, reason: str) -> None:
        """The site refused the job for good.

        If an earlier claim may have submitted it, the job stays to be looked for and ended.
        """
        with self._database.write() as connection:
            advance(
                connection,
                claim.experiment_id,
                claim.seq,
                StepState.FAILED,
                epoch=claim.epoch,
                detail={"reason": reason},
                reason=reason,
                lease_until=None,
                message_id=None,
                ended_at=True,
            )
            if intent.first:
                connection.execute(
                    update(jobs)
                    .where(jobs.c.token == intent.token)
                    .values(state=JobRecord.REJECTED.value, ended_at=db_now(), reason=reason)
                )

    def live(self, site: str, tokens: Sequence[str] | None = None) -> list[LiveJob]:
        """Jobs of a site to ask about: those it has accepted and that have not ended."""
        statement = _LIVE_JOBS.where(jobs.c.site == site, jobs.c.state != JobRecord.INTENT.value)
        if tokens is not None:
            statement = statement.where(jobs.c.token.in_(tokens))
        return self._live(statement)

    def to_end(self, experiment_id: str) -> list[LiveJob]:
        """Jobs, intents included, that must go because their experiment is cancelled or over.

        None of an experiment that was retried meanwhile: a cancel's message may come late.
        """
        over = [state.value for state in (ExperimentState.CANCELLING, *FINAL)]
        return self._live(
            _LIVE_JOBS.where(jobs.c.experiment_id == experiment_id, experiments.c.state.in_(over))
        )

    def _live(self, statement: Any) -> list[LiveJob]:
        with self._database.read() as connection:
            return [
                LiveJob(
                    token=row.token,
                    experiment_id=row.experiment_id,
                    site=row.site,
                    workdir=row.workdir,
                    native_id=row.native_id,
                    state=JobRecord(row.state),
                    spec=row.spec,
                    reason=row.reason,
                    unknown=row.unknown_at is not None,
                    array=in_array(row.array_name, row.array_index),
                )
                for row in connection.execute(statement)
            ]

    def unknown(self, *, now: Collection[str], no_more: Collection[str]) -> None:
        """Note that sites cannot tell about these jobs, and can again about those."""
        with self._database.write() as connection:
            for tokens, since in ((now, db_now()), (no_more, None)):
                if tokens:
                    connection.execute(
                        update(jobs)
                        .where(jobs.c.token.in_(sorted(tokens)), IS_LIVE)
                        .values(unknown_at=since)
                    )

    def record(self, reports: Sequence[JobReport]) -> list[NextStep]:
        """Write down what a poll found; returns the steps whose chains are to be sent."""
        # in one order, so that two polls of a site never wait for each other's rows
        ordered = sorted(reports, key=lambda report: report.token)
        with self._database.write() as connection:
            found = [record_job(connection, report) for report in ordered]
        return [step for step in found if step is not None]

    def cancelled(
        self, experiment_id: str, tokens: Sequence[str], reason: str = "cancelled"
    ) -> bool:
        """It is certain that these jobs are gone; True if the experiment is CANCELLED now."""
        with self._database.write() as connection:
            connection.execute(
                update(jobs)
                .where(jobs.c.token.in_(tokens), IS_LIVE)
                .values(state=JobRecord.CANCELLED.value, ended_at=db_now(), reason=reason)
            )
            left = connection.execute(
                select(func.count())
                .select_from(jobs)
                .where(jobs.c.experiment_id == experiment_id, IS_LIVE)
            ).scalar_one()
            asked = connection.execute(
                select(experiments.c.state, experiments.c.reason).where(
                    experiments.c.id == experiment_id
                )
            ).one_or_none()
            if left or asked is None or asked.state != ExperimentState.CANCELLING:
                return False
            return set_experiment(
                connection, experiment_id, ExperimentState.CANCELLED, reason=asked.reason
            )


def _following(one: Accepted, made: Mapping[str, Any]) -> NextStep | Claim | Way | None:
    if one.report is None:
        return None if made else Way.ELSEHOW
    if "carried" in made:
        return claim_of(made["carried"])
    if "readied" not in made:
        return Way.ELSEHOW
    step = made["readied"]
    return NextStep(one.claim.experiment_id, (StepName(step.name),), step.priority)


def intend(
    connection: Connection,
    claim: Claim,
    *,
    site: str,
    workdir: str,
    limits: SiteLimits,
    array: InArray | None = None,
) -> Intent | Held:
    """Write down an intent as `Jobs.intend` says; `array` is for a job that is not known yet."""
    _check_claim(connection, claim)
    number = 1
    for row in connection.execute(select(jobs).where(jobs.c.experiment_id == claim.experiment_id)):
        if row.state in LIVE_JOBS:
            place = in_array(row.array_name, row.array_index)
            return Intent(token=row.token, workdir=row.workdir, first=False, array=place)
        number = max(number, row.number + 1)
    held = refusal(connection, claim, site, limits)
    if held is not None:
        _hold(connection, claim, held)
        return Held(held)
    token = job_token(claim.experiment_id, number)
    connection.execute(
        insert(jobs).values(
            token=token,
            experiment_id=claim.experiment_id,
            number=number,
            site=site,
            state=JobRecord.INTENT.value,
            workdir=workdir,
            created_at=db_now(),
            array_name=None if array is None else array.name,
            array_index=None if array is None else array.index,
        )
    )
    return Intent(token=token, workdir=workdir, first=True, array=array)


def _check_claim(connection: Connection, claim: Claim) -> None:
    held = connection.execute(
        select(steps.c.epoch)
        .where(
            steps.c.experiment_id == claim.experiment_id,
            steps.c.seq == claim.seq,
            steps.c.epoch == claim.epoch,
            steps.c.started_at == claim.since,
            steps.c.state == StepState.RUNNING.value,
        )
        .with_for_update()
    ).one_or_none()
    if held is None:
        raise FencedError(f"{claim.experiment_id}: the claim on step {claim.seq} is lost")


def _hold(connection: Connection, claim: Claim, reason: str) -> None:
    advance(
        connection,
        claim.experiment_id,
        claim.seq,
        StepState.HELD,
        epoch=claim.epoch,
        attempt_add=-1,
        detail={"reason": reason},
        reason=reason,
        lease_until=None,
        message_id=None,
        sent_at=None,
    )
