"""Retry and resume: from each state and step, and what is refused."""

from __future__ import annotations

import pytest
from state.world import MONITOR, SETUP, STAGE_IN, STAGE_OUT, SUBMIT, World

from wlm_tasks.errors import IllegalTransitionError, NotFoundError
from wlm_tasks.model.states import ExperimentState, JobRecord, StepState
from wlm_tasks.model.steps import StepName

FAILED, PAUSED, CANCELLED = StepState.FAILED, StepState.PAUSED, StepState.CANCELLED


@pytest.mark.parametrize("state", [FAILED, PAUSED, CANCELLED])
@pytest.mark.parametrize("name", [SETUP, STAGE_IN, SUBMIT, STAGE_OUT])
def test_retry_goes_on_where_it_stopped(world: World, name: StepName, state: StepState) -> None:
    experiment_id = world.into(state, name)
    epoch = world.step(experiment_id, name).epoch
    assert world.store.intake.retry(experiment_id) is name
    steps = world.store.views.steps(experiment_id)
    at = next(step.seq for step in steps if step.name is name)
    assert [str(step.state) for step in steps] == (
        ["DONE"] * at + ["READY"] + ["WAITING"] * (4 - at)
    )
    view = world.store.views.experiment(experiment_id)
    assert (view.state, view.ended_at, view.reason) == (ExperimentState.QUEUED, None, None)
    step = steps[at]
    assert step.epoch > epoch
    assert (step.tries, step.crashes, step.reason, step.sent_at) == (0, 0, None, None)
    assert [one.segment[0] for one in world.store.upkeep.unsent(9)] == [name]
    assert (at, "RETRIED") in world.log(experiment_id)


@pytest.mark.parametrize("state", [FAILED, CANCELLED])
def test_retry_of_the_job_itself_submits_it_again(world: World, state: StepState) -> None:
    experiment_id, token = world.submitted()
    if state is FAILED:
        world.end_job(experiment_id, JobRecord.FAILED)
    else:
        world.store.intake.cancel(experiment_id)
        world.store.jobs.cancelled(experiment_id, [token])
    assert world.step(experiment_id, MONITOR).state is state
    assert world.store.intake.retry(experiment_id) is SUBMIT
    assert world.steps(experiment_id) == ["DONE", "DONE", "READY", "WAITING", "WAITING"]
    again = world.submit(experiment_id)
    assert again != token
    assert world.steps(experiment_id)[3] == "WATCHING"
    world.end_job(experiment_id)
    assert world.steps(experiment_id)[3:] == ["DONE", "READY"]
    assert [job.number for job in world.store.views.jobs(experiment_id)] == [1, 2]


def test_retry_of_what_went_well_runs_all_of_it_again(world: World) -> None:
    experiment_id, _token = world.submitted(staging=False)
    world.end_job(experiment_id)
    assert world.state(experiment_id) is ExperimentState.DONE
    assert world.store.intake.retry(experiment_id) is SETUP
    assert world.steps(experiment_id) == ["READY", "WAITING", "WAITING"]
    world.until(experiment_id, MONITOR)
    world.end_job(experiment_id)
    assert world.state(experiment_id) is ExperimentState.DONE


@pytest.mark.parametrize(
    ("asked", "start"),
    [(SETUP, SETUP), (STAGE_IN, STAGE_IN), (SUBMIT, SUBMIT), (MONITOR, SUBMIT),
     (STAGE_OUT, STAGE_OUT)],
)  # fmt: skip
def test_retry_from_a_step_of_ones_choice(world: World, asked: StepName, start: StepName) -> None:
    experiment_id = world.into(FAILED, STAGE_OUT)
    assert world.store.intake.retry(experiment_id, asked) is start
    at = world.step(experiment_id, start).seq
    assert world.steps(experiment_id) == ["DONE"] * at + ["READY"] + ["WAITING"] * (4 - at)


def test_retry_cannot_leave_out_what_is_not_done(world: World) -> None:
    experiment_id = world.into(FAILED, STAGE_IN)
    for name in (SUBMIT, MONITOR, STAGE_OUT):
        with pytest.raises(IllegalTransitionError, match="before stage_in is done"):
            world.store.intake.retry(experiment_id, name)
    assert world.state(experiment_id) is ExperimentState.FAILED


def test_retry_from_a_step_it_does_not_have(world: World) -> None:
    experiment_id = world.into(FAILED, SETUP, staging=False)
    with pytest.raises(NotFoundError, match=r"'stage_in'.*setup, submit, monitor"):
        world.store.intake.retry(experiment_id, STAGE_IN)
    with pytest.raises(NotFoundError, match="'exp-none'"):
        world.store.intake.retry("exp-none")


@pytest.mark.parametrize(
    ("state", "name"),
    [(StepState.READY, SETUP), (StepState.HELD, SETUP), (StepState.RUNNING, SETUP),
     (StepState.BACKOFF, SETUP), (StepState.WATCHING, MONITOR), (StepState.READY, STAGE_OUT)],
)  # fmt: skip
def test_what_goes_on_is_not_retried(world: World, state: StepState, name: StepName) -> None:
    experiment_id = world.into(state, name)
    before = world.store.views.steps(experiment_id)
    with pytest.raises(IllegalTransitionError, match="only what is paused or"):
        world.store.intake.retry(experiment_id)
    assert world.store.views.steps(experiment_id) == before


def test_what_is_being_cancelled_is_not_retried(world: World) -> None:
    experiment_id, _token = world.submitted()
    world.store.intake.cancel(experiment_id)
    with pytest.raises(IllegalTransitionError, match="is CANCELLING"):
        world.store.intake.retry(experiment_id)


def test_a_job_that_may_exist_is_ended_before_a_retry(world: World) -> None:
    claim = world.running(SUBMIT)
    token = world.intend(claim)
    world.store.claims.fail(claim, "the site said something odd")
    for name in (None, SETUP, SUBMIT):
        with pytest.raises(IllegalTransitionError, match=token):
            world.store.intake.retry(claim.experiment_id, name)
    world.store.jobs.cancelled(claim.experiment_id, [token])
    assert world.store.intake.retry(claim.experiment_id) is SUBMIT
    assert world.submit(claim.experiment_id) != token


def test_a_paused_submit_goes_on_with_its_token(world: World) -> None:
    claim = world.running(SUBMIT)
    token = world.intend(claim)
    world.store.claims.pause(claim, "the site did not answer")
    assert world.store.upkeep.to_cancel(0) == []
    with pytest.raises(IllegalTransitionError, match=f"{token} may run.*from submit or cancel"):
        world.store.intake.retry(claim.experiment_id, SETUP)  # its input would change under it
    world.store.intake.retry(claim.experiment_id)
    assert world.submit(claim.experiment_id) == token


def test_a_resumed_transfer_goes_on_where_it_stopped(world: World) -> None:
    claim = world.running(STAGE_OUT)
    world.store.claims.progress(claim, '{"file": 2}', 60)
    world.store.claims.pause(claim, "no route")
    world.store.intake.retry(claim.experiment_id)
    assert world.step(claim.experiment_id, STAGE_OUT).progress == {"file": 2}


@pytest.mark.parametrize("start", [SUBMIT, STAGE_OUT, SETUP])
def test_new_work_forgets_how_far_the_old_got(world: World, start: StepName) -> None:
    claim = world.running(STAGE_OUT)
    world.store.claims.progress(claim, '{"file": 2}', 60)
    world.store.claims.fail(claim, "refused")
    world.store.intake.retry(claim.experiment_id, start)
    assert world.step(claim.experiment_id, STAGE_OUT).progress is None


def test_retry_counts_from_the_start_again(world: World) -> None:
    experiment_id = world.add()
    for _ in range(2):
        world.store.claims.back_off(world.claim(experiment_id), "passing", 0.0)
        world.past("due_at", 1, experiment_id)
        world.store.upkeep.wake_due()
    world.store.claims.pause(world.claim(experiment_id), "gave up")
    assert world.step(experiment_id, SETUP).tries == 3
    world.store.intake.retry(experiment_id)
    claim = world.claim(experiment_id)
    assert (claim.tries, claim.crashes, claim.attempt) == (0, 0, 4)
