"""Claims: who gets a step, and who may write to it afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from state.world import (
    MONITOR,
    SETUP,
    STAGE_IN,
    STAGE_OUT,
    SUBMIT,
    World,
    holder,
)

from wlm_tasks.errors import FencedError
from wlm_tasks.model.states import ExperimentState, StepState
from wlm_tasks.state.claims import GoOn, Leave
from wlm_tasks.state.holders import Claim
from wlm_tasks.state.intents import Intent


def test_a_ready_step_is_claimed_and_counted(world: World) -> None:
    experiment_id = world.add()
    before = world.store.coordination.clock()
    claim = world.claim(experiment_id, SETUP, worker="w7@host")
    assert (claim.seq, claim.attempt, claim.tries, claim.crashes) == (0, 1, 0, 0)
    step = world.step(experiment_id, SETUP)
    assert (step.state, step.epoch, step.worker) == (StepState.RUNNING, claim.epoch, "w7@host")
    assert step.started_at is not None
    assert step.started_at >= before - 0.002
    assert world.state(experiment_id) is ExperimentState.PREPARING
    assert world.log(experiment_id)[1:] == [(0, "RUNNING"), (None, "PREPARING")]


@pytest.mark.parametrize("name", [STAGE_IN, SUBMIT, MONITOR, STAGE_OUT])
def test_a_step_that_waits_is_left(world: World, name: object) -> None:
    got = world.store.claims.claim(world.add(), name, holder())  # type: ignore[arg-type]
    assert got == Leave("the step is WAITING")


@pytest.mark.parametrize(
    "state", sorted(set(StepState) - {StepState.READY, StepState.WAITING, StepState.WATCHING})
)
def test_only_what_is_ready_is_claimed(world: World, state: StepState) -> None:
    experiment_id = world.into(state, SETUP)
    before = world.step(experiment_id, SETUP)
    for redelivered in (False, True):
        other = holder("another-message", redelivered=redelivered)
        got = world.store.claims.claim(experiment_id, SETUP, other)
        if state is StepState.DONE and redelivered:
            assert got == GoOn(STAGE_IN)
        else:
            assert got == Leave(f"the step is {state}")
        assert world.step(experiment_id, SETUP) == before


def test_a_message_for_nothing_is_left(world: World) -> None:
    assert world.store.claims.claim("exp-none", SETUP, holder()) == Leave("no such step")
    bare = world.add(staging=False)
    assert world.store.claims.claim(bare, STAGE_IN, holder()) == Leave("no such step")


def test_a_more_urgent_step_in_a_served_queue_comes_first(world: World) -> None:
    low, urgent = world.add(priority="low"), world.add(priority="urgent")
    world.add(priority="high")
    got = world.store.claims.claim(low, SETUP, holder())
    assert isinstance(got, Claim)
    assert (got.experiment_id, got.name, got.priority) == (urgent, SETUP, 9)
    assert world.steps(low)[0] == "READY"


def test_a_more_urgent_step_of_another_kind_comes_first(world: World) -> None:
    low, urgent = world.add(priority="low"), world.add(priority="urgent")
    world.until(urgent, SUBMIT)
    got = world.store.claims.claim(low, SETUP, holder(queues=["envsetup", "jobsub"]))
    assert isinstance(got, Claim)
    assert (got.experiment_id, got.name) == (urgent, SUBMIT)


def test_a_more_urgent_step_in_a_queue_not_served_is_others_work(world: World) -> None:
    low, urgent = world.add(priority="low"), world.add(priority="urgent")
    world.until(urgent, SUBMIT)
    got = world.store.claims.claim(low, SETUP, holder(queues=["envsetup"]))
    assert isinstance(got, Claim)
    assert got.experiment_id == low


def test_equals_do_not_outrank(world: World) -> None:
    world.add(priority="high")
    second = world.add(priority="high")
    got = world.store.claims.claim(second, SETUP, holder())
    assert isinstance(got, Claim)
    assert got.experiment_id == second


def test_what_is_most_urgent_and_waits_longest(world: World) -> None:
    low, first, second = (world.add(priority=p) for p in ("low", "urgent", "urgent"))
    world.past("sent_at", 5, first)
    got = world.store.claims.claim(low, SETUP, holder())
    assert isinstance(got, Claim)
    assert got.experiment_id == first
    got = world.store.claims.claim(low, SETUP, holder())
    assert isinstance(got, Claim)
    assert got.experiment_id == second


def test_a_redelivered_message_takes_over_what_it_held(world: World) -> None:
    experiment_id = world.add()
    old = world.claim(experiment_id, message="m")
    again = world.store.claims.claim(
        experiment_id, SETUP, holder("m", worker="w2@host", redelivered=True)
    )
    assert isinstance(again, Claim)
    assert (again.epoch, again.crashes, again.attempt) == (old.epoch + 1, 1, 2)
    step = world.step(experiment_id, SETUP)
    assert (step.worker, step.state, step.crashes) == ("w2@host", StepState.RUNNING, 1)


def test_it_takes_over_what_it_had_carried_on_to(world: World) -> None:
    experiment_id = world.add()
    mine = holder("m")
    first = world.claim(experiment_id, message="m")
    carried = world.store.claims.finish(first, carry_on=mine)
    assert isinstance(carried, Claim)
    got = world.store.claims.claim(experiment_id, SETUP, holder("m", redelivered=True))
    assert isinstance(got, Claim)
    assert (got.name, got.epoch, got.crashes) == (STAGE_IN, carried.epoch + 1, 1)


def test_it_takes_over_what_had_come_first(world: World) -> None:
    low, urgent = world.add(priority="low"), world.add(priority="urgent")
    assert isinstance(world.store.claims.claim(low, SETUP, holder("m")), Claim)
    got = world.store.claims.claim(low, SETUP, holder("m", redelivered=True))
    assert isinstance(got, Claim)
    assert (got.experiment_id, got.crashes) == (urgent, 1)


def test_another_message_takes_nothing_over(world: World) -> None:
    experiment_id = world.add()
    world.claim(experiment_id, message="m")
    got = world.store.claims.claim(experiment_id, SETUP, holder("other", redelivered=True))
    assert got == Leave("the step is RUNNING")
    got = world.store.claims.claim(experiment_id, SETUP, holder("m", redelivered=False))
    assert got == Leave("the step is RUNNING")


def test_a_holder_that_ended_is_not_taken_over(world: World) -> None:
    experiment_id = world.into(StepState.RUNNING)
    claim = world.step(experiment_id, SETUP)
    world.store.upkeep.forget_sent()
    world.store.upkeep.expire_leases(99)
    got = world.store.claims.claim(experiment_id, SETUP, holder("message-1", redelivered=True))
    assert isinstance(got, Claim)  # as any message would have
    assert got.epoch == claim.epoch + 2
    assert got.crashes == 1


def _writes(world: World, claim: Claim) -> dict[str, Callable[[], object]]:
    claims = world.store.claims
    return {
        "finish": lambda: claims.finish(claim, carry_on=None),
        "carry on": lambda: claims.finish(claim, carry_on=holder()),
        "give_back": lambda: claims.give_back(claim, "{}"),
        "back_off": lambda: claims.back_off(claim, "passing", 1.0),
        "pause": lambda: claims.pause(claim, "gave up"),
        "fail": lambda: claims.fail(claim, "broken"),
        "intend": lambda: world.intend(claim),
        "submitted": lambda: world.store.jobs.submitted(claim, "wlm-x-1", "n"),
        "rejected": lambda: world.store.jobs.rejected(
            claim, Intent(token="wlm-x-1", workdir="/w", first=True), "no"
        ),
    }


@pytest.mark.parametrize("how", ["taken over", "expired", "cancelled", "finished"])
def test_whoever_lost_the_claim_writes_nothing(world: World, how: str) -> None:
    claim = world.running(SUBMIT)
    experiment_id = claim.experiment_id
    if how == "taken over":
        world.store.claims.claim(experiment_id, SUBMIT, holder(redelivered=True))
    elif how == "expired":
        world.past("lease_until", 100, experiment_id)
        world.store.upkeep.expire_leases(9)
    elif how == "cancelled":
        world.store.intake.cancel(experiment_id)
    else:
        world.store.claims.pause(claim, "by itself")
    before = (world.store.views.steps(experiment_id), world.log(experiment_id))
    for write in _writes(world, claim).values():
        with pytest.raises(FencedError, match=experiment_id):
            write()
        assert (world.store.views.steps(experiment_id), world.log(experiment_id)) == before
    assert world.job_states(experiment_id) == []


def test_a_renewal_prolongs_and_tells_who_lost(world: World) -> None:
    kept, lost = world.running(SETUP), world.running(SETUP)
    for claim in (kept, lost):
        world.past("lease_until", 100, claim.experiment_id)
    world.store.intake.cancel(lost.experiment_id)
    world.store.claims.renew([lost, kept], 60.0)
    assert lost.lost.is_set()
    assert not kept.lost.is_set()
    assert world.store.upkeep.expire_leases(3) == 0


def test_progress_is_kept_by_the_holder_only(world: World) -> None:
    claim = world.running(STAGE_IN)
    world.past("lease_until", 100, claim.experiment_id)
    world.store.claims.progress(claim, json.dumps({"file": 1}), 60.0)
    assert world.step(claim.experiment_id, STAGE_IN).progress == {"file": 1}
    assert world.store.upkeep.expire_leases(3) == 0
    world.store.claims.claim(claim.experiment_id, STAGE_IN, holder(redelivered=True))
    world.store.claims.progress(claim, json.dumps({"file": 2}), 60.0)
    assert world.step(claim.experiment_id, STAGE_IN).progress == {"file": 1}


def test_a_holder_that_lives_takes_back_the_count_of_its_crash(world: World) -> None:
    claim = world.running(SETUP)
    world.store.claims.not_crashed(claim)  # still holds it: nothing to take back
    taken = world.store.claims.claim(claim.experiment_id, SETUP, holder(redelivered=True))
    assert isinstance(taken, Claim)
    assert world.step(claim.experiment_id, SETUP).crashes == 1
    world.store.claims.not_crashed(claim)
    assert world.step(claim.experiment_id, SETUP).crashes == 0
    world.store.claims.not_crashed(claim)
    assert world.step(claim.experiment_id, SETUP).crashes == 0


def test_a_claimed_step_has_not_ended(world: World) -> None:
    experiment_id = world.into(StepState.BACKOFF)
    world.past("due_at", 60, experiment_id)
    world.store.upkeep.wake_due()
    world.claim(experiment_id)
    step = world.step(experiment_id, SETUP)
    assert (step.ended_at, step.reason) == (None, None)
