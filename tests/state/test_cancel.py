"""Cancel: in every state, against every late writer, until the site has confirmed it."""

from __future__ import annotations

import pytest
from state.world import (
    MONITOR,
    SETUP,
    STAGE_OUT,
    SUBMIT,
    World,
    holder,
    new,
)

from wlm_tasks.errors import NotFoundError
from wlm_tasks.model.states import FINAL, ExperimentState, JobRecord, StepState
from wlm_tasks.state.claims import Leave
from wlm_tasks.state.intake import NewSweep, new_id

CANCELLING, CANCELLED = ExperimentState.CANCELLING, ExperimentState.CANCELLED


@pytest.mark.parametrize(
    "state",
    [
        StepState.HELD, StepState.READY, StepState.RUNNING, StepState.BACKOFF, StepState.PAUSED,
    ],
)  # fmt: skip
def test_cancel_without_a_job_is_over_at_once(world: World, state: StepState) -> None:
    experiment_id = world.into(state)
    epoch = world.step(experiment_id, SETUP).epoch
    assert world.store.intake.cancel(experiment_id, "not needed") is CANCELLED
    view = world.store.views.experiment(experiment_id)
    assert (view.state, view.reason) == (CANCELLED, "not needed")
    assert view.ended_at is not None
    assert world.steps(experiment_id) == ["CANCELLED"] * 5
    step = world.step(experiment_id, SETUP)
    assert (step.epoch, step.reason) == (epoch + 1, "not needed")
    assert world.log(experiment_id)[-1] == (None, "CANCELLED")
    assert world.store.upkeep.to_cancel(0) == []


def test_what_is_done_stays_done(world: World) -> None:
    claim = world.running(STAGE_OUT)
    world.store.intake.cancel(claim.experiment_id)
    assert world.steps(claim.experiment_id) == ["DONE"] * 4 + ["CANCELLED"]


def test_a_cancelled_step_is_never_claimed(world: World) -> None:
    experiment_id = world.into(StepState.BACKOFF)
    world.store.intake.cancel(experiment_id)
    world.past("due_at", 60, experiment_id)
    world.past("lease_until", 600, experiment_id)
    assert world.store.upkeep.wake_due() == world.store.upkeep.expire_leases(3) == 0
    for redelivered in (True, False):
        message = holder(redelivered=redelivered)
        got = world.store.claims.claim(experiment_id, SETUP, message)
        assert got == Leave("the step is CANCELLED")


@pytest.mark.parametrize("known", ["intended", "submitted", "running"])
def test_cancel_waits_for_the_job(world: World, known: str) -> None:
    if known == "intended":
        claim = world.running(SUBMIT)
        experiment_id, token = claim.experiment_id, world.intend(claim)
    else:
        experiment_id, token = world.submitted()
    if known == "running":
        world.report(token, JobRecord.RUNNING)
    assert world.store.intake.cancel(experiment_id, "by ann") is CANCELLING
    assert world.store.intake.cancel(experiment_id, "again") is CANCELLING
    view = world.store.views.experiment(experiment_id)
    assert (view.ended_at, view.reason) == (None, "by ann")
    assert world.store.upkeep.to_cancel(0) == [experiment_id]
    assert [job.token for job in world.store.jobs.to_end(experiment_id)] == [token]
    assert world.store.jobs.cancelled(experiment_id, [token])
    view = world.store.views.experiment(experiment_id)
    assert (view.state, view.reason) == (CANCELLED, "by ann")
    assert view.ended_at is not None
    assert world.job_states(experiment_id) == [JobRecord.CANCELLED]
    assert world.store.upkeep.to_cancel(0) == []
    assert not world.store.jobs.cancelled(experiment_id, [token])


def test_a_cancel_not_confirmed_is_asked_for_again(world: World) -> None:
    experiment_id, _token = world.submitted()
    world.store.intake.cancel(experiment_id)
    assert not world.store.jobs.cancelled(experiment_id, [])
    assert world.state(experiment_id) is CANCELLING
    world.store.upkeep.cancel_sent([experiment_id])
    assert world.store.upkeep.to_cancel(30) == []
    world.sql("UPDATE experiments SET cancel_sent_at = cancel_sent_at - 31")
    assert world.store.upkeep.to_cancel(30) == [experiment_id]


@pytest.mark.parametrize(
    "end", [JobRecord.SUCCEEDED, JobRecord.FAILED, JobRecord.CANCELLED, JobRecord.LOST]
)
def test_nothing_but_the_confirmation_ends_a_cancel(world: World, end: JobRecord) -> None:
    experiment_id, token = world.submitted()
    world.store.intake.cancel(experiment_id)
    world.report(token, JobRecord.RUNNING)
    assert world.state(experiment_id) is CANCELLING
    assert world.report(token, end, max_jobs=5) == []
    assert world.state(experiment_id) is CANCELLING
    assert world.steps(experiment_id)[2:] == ["DONE", "CANCELLED", "CANCELLED"]
    assert world.store.upkeep.to_cancel(0) == [experiment_id]
    assert world.store.jobs.cancelled(experiment_id, [])
    assert world.state(experiment_id) is CANCELLED
    assert world.job_states(experiment_id) == [end]


@pytest.mark.parametrize("state", sorted(FINAL))
def test_what_has_ended_stays_as_it_is(world: World, state: ExperimentState) -> None:
    if state is ExperimentState.DONE:
        experiment_id, _token = world.submitted(staging=False)
        world.end_job(experiment_id)
    else:
        experiment_id = world.into(StepState(state))
    before = (world.store.views.steps(experiment_id), world.log(experiment_id))
    assert world.store.intake.cancel(experiment_id) is state
    assert (world.store.views.steps(experiment_id), world.log(experiment_id)) == before


def test_cancel_of_nothing(world: World) -> None:
    with pytest.raises(NotFoundError, match="'exp-none'"):
        world.store.intake.cancel("exp-none")


def test_a_job_left_over_by_a_failed_submit_is_ended(world: World) -> None:
    claim = world.running(SUBMIT)
    token = world.intend(claim)
    assert world.store.jobs.to_end(claim.experiment_id) == []  # it is being submitted
    world.store.claims.fail(claim, "the site said something odd")
    assert world.store.upkeep.to_cancel(0) == [claim.experiment_id]
    assert [job.token for job in world.store.jobs.to_end(claim.experiment_id)] == [token]
    assert not world.store.jobs.cancelled(claim.experiment_id, [token])
    assert world.state(claim.experiment_id) is ExperimentState.FAILED
    assert world.job_states(claim.experiment_id) == [JobRecord.CANCELLED]
    assert world.store.upkeep.to_cancel(0) == []


def test_a_late_cancel_message_ends_no_job_of_a_retry(world: World) -> None:
    experiment_id, token = world.submitted()
    world.store.intake.cancel(experiment_id)
    world.store.jobs.cancelled(experiment_id, [token])
    world.store.intake.retry(experiment_id)
    world.submit(experiment_id)
    assert world.store.jobs.to_end(experiment_id) == []


def test_to_cancel_takes_no_more_than_asked(world: World) -> None:
    for _ in range(3):
        world.store.intake.cancel(world.submitted()[0])
    assert len(world.store.upkeep.to_cancel(0, limit=2)) == 2
    assert len(world.store.upkeep.to_cancel(0)) == 3


def test_a_sweep_that_stops_at_a_failure(world: World) -> None:
    members = [new() for _ in range(4)]
    sweep = NewSweep(
        id=new_id("swp"), name="s", fingerprint="f", size=4, max_active=3, stop_on_failure=True
    )
    world.store.intake.add_sweep(sweep, members)
    _sweep, others = world.add_sweep(3)
    rest = world.store.upkeep.cancel_rest_of_failed_sweeps
    assert rest() == []
    started, failing, queued, held = (member.id for member in members)
    world.claim(started)
    world.store.claims.fail(world.claim(others[0]), "broken")
    assert rest() == []
    world.store.claims.fail(world.claim(failing), "broken")
    assert sorted(rest()) == sorted([queued, held])
    for member in rest():
        world.store.intake.cancel(member)
    assert rest() == []
    assert world.step(started, MONITOR).state is StepState.WAITING


def test_a_member_that_is_retried_goes_on_beside_one_that_failed(world: World) -> None:
    members = [new() for _ in range(4)]
    sweep = NewSweep(
        id=new_id("swp"), name="s", fingerprint="f", size=4, max_active=3, stop_on_failure=True
    )
    world.store.intake.add_sweep(sweep, members)
    failed, other, queued, held = (member.id for member in members)
    for one in (failed, other):
        world.store.claims.fail(world.claim(one), "broken")
    for one in world.store.upkeep.cancel_rest_of_failed_sweeps():
        world.store.intake.cancel(one)
    assert world.state(queued) is world.state(held) is CANCELLED
    for one in (failed, queued, held):  # a person wants them, whatever became of the other
        world.store.intake.retry(one)
    assert world.store.upkeep.cancel_rest_of_failed_sweeps() == []
