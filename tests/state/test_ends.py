"""How a claim ends: finished, given back, backed off, paused, failed, gone silent."""

from __future__ import annotations

import pytest
from state.world import MONITOR, SETUP, STAGE_IN, STAGE_OUT, SUBMIT, World, holder

from wlm_tasks.model.states import ExperimentState, StepState
from wlm_tasks.state.claims import GoOn, Leave
from wlm_tasks.state.holders import Claim


def test_finish_makes_the_next_step_ready_and_counts_it_as_sent(world: World) -> None:
    claim = world.running(SETUP)
    assert world.store.claims.finish(claim, carry_on=None) is None
    assert world.steps(claim.experiment_id)[:3] == ["DONE", "READY", "WAITING"]
    following = world.step(claim.experiment_id, STAGE_IN)
    assert following.sent_at is not None
    assert following.ready_at is not None
    assert world.store.upkeep.unsent(10) == []
    assert world.step(claim.experiment_id, SETUP).ended_at is not None


def test_the_last_finish_ends_the_experiment(world: World) -> None:
    claim = world.running(STAGE_OUT)
    assert world.state(claim.experiment_id) is ExperimentState.FINISHING
    assert claim.last
    assert world.store.claims.finish(claim, carry_on=holder()) is None
    view = world.store.views.experiment(claim.experiment_id)
    assert view.state is ExperimentState.DONE
    assert view.ended_at is not None
    assert view.ended_at >= view.created_at
    assert world.steps(claim.experiment_id) == ["DONE"] * 5


def test_carry_on_claims_the_next_step_in_the_same_commit(world: World) -> None:
    claim = world.running(SETUP)
    carried = world.store.claims.finish(claim, carry_on=holder("m", worker="w3@host"))
    assert isinstance(carried, Claim)
    assert (carried.name, carried.seq, carried.attempt) == (STAGE_IN, 1, 1)
    assert world.steps(claim.experiment_id)[:3] == ["DONE", "RUNNING", "WAITING"]
    assert world.step(claim.experiment_id, STAGE_IN).worker == "w3@host"
    assert world.log(claim.experiment_id)[-2:] == [(0, "DONE"), (1, "RUNNING")]


def test_carry_on_ends_where_the_worker_does_not_serve(world: World) -> None:
    claim = world.running(SETUP)
    carried = world.store.claims.finish(claim, carry_on=holder(queues=["envsetup"]))
    assert carried is None
    assert world.steps(claim.experiment_id)[:2] == ["DONE", "READY"]


def test_carry_on_gives_way_to_the_more_urgent(world: World) -> None:
    claim = world.running(SETUP, priority="low")
    world.add(priority="normal")
    assert world.store.claims.finish(claim, carry_on=holder()) is None
    assert world.steps(claim.experiment_id)[:2] == ["DONE", "READY"]


def test_carry_on_does_not_wait_for_what_it_cannot_do(world: World) -> None:
    claim = world.running(SETUP, priority="low")
    world.until(world.add(priority="urgent"), SUBMIT)
    carried = world.store.claims.finish(claim, carry_on=holder(queues=["envsetup", "staging"]))
    assert isinstance(carried, Claim)


def test_a_finished_step_leads_a_redelivered_message_on(world: World) -> None:
    claim = world.running(SETUP)
    world.store.claims.finish(claim, carry_on=None)
    again = holder("m", redelivered=True)
    assert world.store.claims.claim(claim.experiment_id, SETUP, again) == GoOn(STAGE_IN)
    duplicate = holder("m", redelivered=False)
    got = world.store.claims.claim(claim.experiment_id, SETUP, duplicate)
    assert got == Leave("the step is DONE")
    world.claim(claim.experiment_id, STAGE_IN, message="other")
    assert world.store.claims.claim(claim.experiment_id, SETUP, again) == Leave("the step is DONE")


def test_a_slice_given_back_is_ready_with_its_progress(world: World) -> None:
    claim = world.running(STAGE_IN)
    world.past("sent_at", 60, claim.experiment_id)
    world.store.claims.give_back(claim, '{"file": 2}')
    step = world.step(claim.experiment_id, STAGE_IN)
    assert (step.state, step.progress, step.tries, step.crashes) == (
        StepState.READY, {"file": 2}, 0, 0,
    )  # fmt: skip
    assert world.store.upkeep.unsent(9) == []
    assert world.store.upkeep.count_sent("staging", 30) == 0
    again = world.claim(claim.experiment_id, STAGE_IN)
    assert (again.attempt, again.epoch) == (2, claim.epoch + 1)


def test_a_slice_given_back_without_progress_keeps_what_was_saved(world: World) -> None:
    claim = world.running(STAGE_IN)
    world.store.claims.progress(claim, '{"file": 1}', 60)
    world.store.claims.give_back(claim)
    assert world.step(claim.experiment_id, STAGE_IN).progress == {"file": 1}


def test_back_off_waits_until_it_is_due(world: World) -> None:
    claim = world.running(STAGE_IN)
    world.store.claims.back_off(claim, "no route to host", 20.0)
    step = world.step(claim.experiment_id, STAGE_IN)
    assert (step.state, step.tries, step.reason) == (StepState.BACKOFF, 1, "no route to host")
    assert step.due_at == pytest.approx(world.store.coordination.clock() + 20, abs=2)
    assert world.store.upkeep.wake_due() == 0
    world.past("due_at", 21, claim.experiment_id)
    assert world.store.upkeep.wake_due() == 1
    step = world.step(claim.experiment_id, STAGE_IN)
    assert (step.state, step.tries, step.due_at, step.sent_at) == (StepState.READY, 1, None, None)
    assert [one.segment for one in world.store.upkeep.unsent(9)] == [(STAGE_IN, SUBMIT)]
    assert world.store.upkeep.wake_due() == 0
    assert world.claim(claim.experiment_id, STAGE_IN).tries == 1


def test_pause_waits_for_a_person(world: World) -> None:
    claim = world.running(STAGE_IN)
    world.store.claims.pause(claim, "gave up after 5 tries: no route")
    view = world.store.views.experiment(claim.experiment_id)
    assert (view.state, view.reason) == (
        ExperimentState.PAUSED, "gave up after 5 tries: no route",
    )  # fmt: skip
    assert view.ended_at is None
    assert world.store.upkeep.wake_due() == world.store.upkeep.expire_leases(1) == 0


def test_fail_ends_the_experiment(world: World) -> None:
    claim = world.running(STAGE_IN)
    world.store.claims.fail(claim, "no such file")
    view = world.store.views.experiment(claim.experiment_id)
    assert (view.state, view.reason) == (ExperimentState.FAILED, "no such file")
    assert view.ended_at is not None
    assert world.steps(claim.experiment_id) == ["DONE", "FAILED", *["WAITING"] * 3]
    assert world.step(claim.experiment_id, STAGE_IN).reason == "no such file"


def test_a_holder_gone_silent_gives_the_step_back(world: World) -> None:
    claim = world.running(STAGE_IN)
    assert world.store.upkeep.expire_leases(3) == 0
    world.past("lease_until", 61, claim.experiment_id)
    assert world.store.upkeep.expire_leases(3) == 1
    step = world.step(claim.experiment_id, STAGE_IN)
    assert (step.state, step.epoch, step.crashes) == (StepState.READY, claim.epoch + 1, 1)
    assert (step.sent_at, step.tries) == (None, 0)
    assert world.store.upkeep.expire_leases(3) == 0


def test_a_step_its_holders_die_on_fails(world: World) -> None:
    experiment_id = world.add()
    for crash in (1, 2, 3):
        assert world.state(experiment_id) is not ExperimentState.FAILED
        world.claim(experiment_id)
        world.past("lease_until", 61, experiment_id)
        assert world.store.upkeep.expire_leases(3) == 1
        assert world.step(experiment_id, SETUP).crashes == crash
    assert world.steps(experiment_id)[0] == "FAILED"
    view = world.store.views.experiment(experiment_id)
    assert view.state is ExperimentState.FAILED
    assert view.reason == "its worker died 3 times while working on it"
    assert view.ended_at is not None


def test_expiry_and_waking_take_no_more_than_asked(world: World) -> None:
    ids = [world.into(StepState.RUNNING) for _ in range(3)]
    for experiment_id in ids:
        world.past("lease_until", 61, experiment_id)
    assert [world.store.upkeep.expire_leases(9, limit=2) for _ in range(3)] == [2, 1, 0]
    backed = [world.into(StepState.BACKOFF) for _ in range(3)]
    for experiment_id in backed:
        world.past("due_at", 60, experiment_id)
    assert [world.store.upkeep.wake_due(limit=2) for _ in range(3)] == [2, 1, 0]


def test_the_embedded_system_forgets_messages_and_holders(world: World) -> None:
    ready, running = world.add(sent=True), world.into(StepState.RUNNING)
    watched, _token = world.submitted()
    world.store.upkeep.forget_sent()
    assert world.store.upkeep.expire_leases(3) == 1
    unsent = {one.experiment_id for one in world.store.upkeep.unsent(9)}
    assert unsent == {ready, running}
    assert world.step(watched, MONITOR).state is StepState.WATCHING
