"""A store with shorthands, so that tests read as what they show."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import text

from wlm_tasks.model.experiment import Experiment, Retry, Transfer, fingerprint
from wlm_tasks.model.states import ExperimentState, JobRecord, StepState
from wlm_tasks.model.steps import STEP_QUEUES, StepName
from wlm_tasks.scheduler.plan import plan
from wlm_tasks.state.advance import NextStep
from wlm_tasks.state.holders import Claim, Holder
from wlm_tasks.state.intake import NewExperiment, NewSweep, new_id
from wlm_tasks.state.intents import Intent
from wlm_tasks.state.politeness import SiteLimits
from wlm_tasks.state.reports import JobReport
from wlm_tasks.state.store import Store
from wlm_tasks.state.views import StepView

SETUP, STAGE_IN, SUBMIT = StepName.SETUP, StepName.STAGE_IN, StepName.SUBMIT
MONITOR, STAGE_OUT = StepName.MONITOR, StepName.STAGE_OUT
LEASE_S = 60.0


def experiment(*, staging: bool = True, **fields: Any) -> Experiment:
    """An experiment with all five steps, or with the three that every one has."""
    if staging:
        fields.setdefault("inputs", [Transfer("file:///in", "in")])
        fields.setdefault("outputs", [Transfer("out", "file:///out")])
    fields.setdefault("retry", Retry())
    return Experiment(
        name=fields.pop("name", "melt"), site=fields.pop("site", "alpha"), commands=["true"],
        **fields,
    )  # fmt: skip


def new(asked: Experiment | None = None, *, key: str | None = None) -> NewExperiment:
    """An experiment as intake takes it."""
    asked = asked or experiment()
    return NewExperiment(
        id=new_id("exp"),
        name=asked.name,
        site=asked.site,
        priority=asked.priority,
        spec=asked.to_json(),
        fingerprint=fingerprint(asked),
        steps=plan(asked).steps,
        key=key,
        owner=asked.owner,
        project=asked.project,
        labels=dict(asked.labels),
    )


def holder(
    message: str = "message-1",
    *,
    worker: str = "w1@host",
    queues: Sequence[str] = STEP_QUEUES,
    redelivered: bool = False,
    lease_s: float = LEASE_S,
) -> Holder:
    """A worker with a message in hand."""
    return Holder(
        worker=worker,
        message_id=message,
        queues=tuple(queues),
        lease_s=lease_s,
        redelivered=redelivered,
    )


def caps(**max_running: int | None) -> dict[str, SiteLimits]:
    """Limits of sites by their names."""
    return {name: SiteLimits(max_running=most) for name, most in max_running.items()}


class World:
    """A store, and how to get its experiments where a test needs them."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def add(
        self, asked: Experiment | None = None, *, key: str | None = None, sent: bool = True,
        **fields: Any,
    ) -> str:  # fmt: skip
        return self.store.intake.add(new(asked or experiment(**fields), key=key), sent=sent)

    def add_sweep(
        self, size: int, *, max_active: int | None = None, key: str | None = None, **fields: Any
    ) -> tuple[str, list[str]]:
        """A sweep; returns its id and its members'."""
        members = [new(experiment(**fields)) for _ in range(size)]
        sweep = NewSweep(
            id=new_id("swp"), name="sweep", fingerprint="f" * 64, size=size, key=key,
            max_active=max_active,
        )  # fmt: skip
        return self.store.intake.add_sweep(sweep, members), [member.id for member in members]

    # -- looking ---------------------------------------------------------------------------

    def state(self, experiment_id: str) -> ExperimentState:
        return self.store.views.experiment(experiment_id).state

    def step(self, experiment_id: str, name: StepName) -> StepView:
        return next(s for s in self.store.views.steps(experiment_id) if s.name is name)

    def steps(self, experiment_id: str) -> list[str]:
        """The states of an experiment's steps in their order."""
        return [str(step.state) for step in self.store.views.steps(experiment_id)]

    def job_states(self, experiment_id: str) -> list[JobRecord]:
        return [job.state for job in self.store.views.jobs(experiment_id)]

    def log(self, experiment_id: str) -> list[tuple[int | None, str]]:
        """The events of an experiment as (step, state)."""
        return [(event.step, event.state) for event in self.store.views.events(experiment_id)]

    # -- moving ----------------------------------------------------------------------------

    def sql(self, statement: str, **values: Any) -> int:
        """Change rows behind the store's back, such as to let time pass."""
        with self.store.database.write() as connection:
            return connection.execute(text(statement), values).rowcount

    def past(self, column: str, seconds: float, experiment_id: str) -> None:
        """Let a time of an experiment's steps lie further back."""
        self.sql(
            f"UPDATE steps SET {column} = {column} - :s WHERE experiment_id = :e",  # noqa: S608
            s=seconds,
            e=experiment_id,
        )

    def claim(self, experiment_id: str, name: StepName = SETUP, **how: Any) -> Claim:
        """Claim a step that can be claimed."""
        claim = self.store.claims.claim(experiment_id, name, holder(**how))
        assert isinstance(claim, Claim), claim
        assert (claim.experiment_id, claim.name) == (experiment_id, name)
        return claim

    def until(self, experiment_id: str, name: StepName) -> None:
        """Bring a fresh experiment so far that the step is ready (or the job is watched)."""
        for view in self.store.views.steps(experiment_id):
            if view.name is name:
                return
            if view.name is SUBMIT:
                self.submit(experiment_id)
            elif view.name is MONITOR:
                self.end_job(experiment_id)
            else:
                self.store.claims.finish(self.claim(experiment_id, view.name), carry_on=None)

    def running(self, name: StepName, **fields: Any) -> Claim:
        """A new experiment with this step claimed."""
        experiment_id = self.add(**fields)
        self.until(experiment_id, name)
        return self.claim(experiment_id, name)

    def intend(self, claim: Claim, *, site: str = "alpha", max_running: int | None = None) -> str:
        """Commit the intent of a job."""
        intent = self.store.jobs.intend(
            claim,
            site=site,
            workdir=f"/scratch/{claim.experiment_id}",
            limits=SiteLimits(max_running=max_running),
        )
        assert isinstance(intent, Intent), intent
        return intent.token

    def submit(self, experiment_id: str) -> str:
        """Hand in the job of an experiment whose submit step is ready; returns its token."""
        claim = self.claim(experiment_id, SUBMIT)
        token = self.intend(claim)
        self.store.jobs.submitted(claim, token, f"native-{token}")
        return token

    def submitted(self, **fields: Any) -> tuple[str, str]:
        """A new experiment whose job is on its site: its id and the job's token."""
        experiment_id = self.add(**fields)
        self.until(experiment_id, SUBMIT)
        return experiment_id, self.submit(experiment_id)

    def report(self, token: str, state: JobRecord, **more: Any) -> list[NextStep]:
        """What a poll found."""
        return self.store.jobs.record([JobReport(token=token, state=state, **more)])

    def end_job(
        self, experiment_id: str, state: JobRecord = JobRecord.SUCCEEDED, **more: Any
    ) -> list[NextStep]:
        """The newest job of an experiment has ended."""
        return self.report(self.store.views.jobs(experiment_id)[-1].token, state, **more)

    def into(self, state: StepState, name: StepName = SETUP, **fields: Any) -> str:
        """A new experiment with this step in this state; returns the experiment's id."""
        claims = self.store.claims
        if state is StepState.HELD:
            return self.add_sweep(2, max_active=1, **fields)[1][1]
        experiment_id = self.add(**fields)
        self.until(experiment_id, name)
        if state in (StepState.READY, StepState.WATCHING):
            return experiment_id
        if name is MONITOR and state is StepState.FAILED:
            self.end_job(experiment_id, JobRecord.FAILED, reason="exit code 1")
            return experiment_id
        if state is StepState.CANCELLED:
            self.store.intake.cancel(experiment_id)
            return experiment_id
        claim = self.claim(experiment_id, name)
        ends: dict[StepState, Callable[[], object]] = {
            StepState.RUNNING: lambda: None,
            StepState.BACKOFF: lambda: claims.back_off(claim, "passing", 20.0),
            StepState.PAUSED: lambda: claims.pause(claim, "gave up"),
            StepState.FAILED: lambda: claims.fail(claim, "broken"),
            StepState.DONE: lambda: claims.finish(claim, carry_on=None),
        }
        ends[state]()
        return experiment_id


def in_threads(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Run `work(number)` in threads that start together; returns what each returned or raised."""
    barrier = threading.Barrier(count)
    results: list[Any] = [None] * count

    def run(number: int) -> None:
        barrier.wait(30)
        try:
            results[number] = work(number)
        except Exception as error:  # noqa: BLE001 - handed to the test
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results
