"""Short steps that one slot claims together, and whose results it records together."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError
from state.world import SETUP, STAGE_IN, SUBMIT, World, holder

from wlm_tasks.errors import FencedError
from wlm_tasks.model.states import ExperimentState, StepState
from wlm_tasks.state.accepted import Accepted, Way
from wlm_tasks.state.claims import Ending
from wlm_tasks.state.holders import Claim
from wlm_tasks.state.intents import FirstJob, job_token

MINE = holder("mine")


def waiting(world: World, count: int, **fields: Any) -> list[str]:
    return sorted(world.add(**fields) for _ in range(count))


def like(world: World, claim: Claim, most: int = 16, site: str = "alpha") -> list[str]:
    return [c.experiment_id for c in world.store.batches.claim_like(claim, MINE, site, most)]


# -- claiming ----------------------------------------------------------------------------------


def test_those_that_wait_for_the_same_are_claimed_along(world: World) -> None:
    ids = waiting(world, 5)
    claim = world.claim(ids[2])
    claims = world.store.batches.claim_like(claim, MINE, "alpha", 16)
    assert [one.experiment_id for one in claims] == [ids[0], ids[1], ids[3], ids[4]]
    for one in claims:
        assert (one.name, one.attempt, one.crashes) == (SETUP, 1, 0)
        assert one.spec
        step = world.step(one.experiment_id, SETUP)
        assert (step.state, step.worker) == (StepState.RUNNING, "w1@host")
        assert world.state(one.experiment_id) is ExperimentState.PREPARING
        assert world.log(one.experiment_id)[-2:] == [(0, "RUNNING"), (None, "PREPARING")]
    assert like(world, claim) == []


def test_none_but_those_that_wait_for_the_same(world: World) -> None:
    lead = world.claim(world.add())
    later = world.add()
    world.until(later, STAGE_IN)
    crashed, sliced = world.add(), world.add()
    world.sql("UPDATE steps SET crashes = 1 WHERE experiment_id = :e AND seq = 0", e=crashed)
    world.store.claims.give_back(world.claim(sliced), '{"file": 1}')
    elsewhere, less_urgent = world.add(site="beta"), world.add(priority="low")
    unsent, held = world.add_sweep(2, max_active=1)[1]
    alike = world.add()
    assert like(world, lead) == [alike]
    for one in (later, crashed, sliced, elsewhere, less_urgent, unsent, held):
        assert StepState.RUNNING not in world.steps(one)


def test_no_more_than_asked_for_and_none_while_something_more_urgent_waits(world: World) -> None:
    ids = waiting(world, 4)
    lead = world.claim(ids[0])
    assert like(world, lead, most=0) == []
    assert len(like(world, lead, most=2)) == 2
    world.add(priority="urgent", site="beta")
    assert like(world, lead) == []
    assert world.store.batches.is_outranked(lead, MINE)
    deaf = holder("deaf", queues=["jobsub"])
    assert not world.store.batches.is_outranked(lead, deaf)


@pytest.mark.postgresql
@pytest.mark.parametrize("dialect", ["postgresql"])
def test_what_another_is_just_claiming_is_not_waited_for(world: World) -> None:
    ids = waiting(world, 3)
    lead = world.claim(ids[0])
    with world.store.database.write() as connection:
        connection.exec_driver_sql(
            f"SELECT 1 FROM steps WHERE experiment_id = '{ids[1]}' FOR UPDATE"  # noqa: S608
        )
        assert like(world, lead) == [ids[2]]
    assert like(world, lead) == [ids[1]]


def test_let_go_they_are_as_they_were(world: World) -> None:
    ids = waiting(world, 3)
    lead = world.claim(ids[0])
    claims = world.store.batches.claim_like(lead, MINE, "alpha", 16)
    world.store.intake.cancel(ids[2])
    world.store.batches.let_go(claims, "not begun")
    assert world.state(ids[2]) is ExperimentState.CANCELLED
    step = world.step(ids[1], SETUP)
    assert (step.state, step.crashes) == (StepState.READY, 0)
    assert [one.experiment_id for one in world.store.upkeep.unsent(10)] == [ids[1]]
    again = world.claim(ids[1])
    assert (again.attempt, again.crashes) == (1, 0)
    with pytest.raises(FencedError):
        world.store.claims.finish(claims[0], carry_on=None)


# -- recording ---------------------------------------------------------------------------------


def test_one_that_is_lost_does_not_keep_the_others_from_being_recorded(world: World) -> None:
    claims = [world.claim(one) for one in waiting(world, 3)]
    world.store.intake.cancel(claims[1].experiment_id)
    found = world.store.claims.finish_all([Ending(claim=one, carry_on=MINE) for one in claims])
    assert [type(one) for one in found] == [Claim, FencedError, Claim]
    assert [one.name for one in found if isinstance(one, Claim)] == [STAGE_IN, STAGE_IN]
    assert world.steps(claims[1].experiment_id)[0] == "CANCELLED"


def test_results_come_in_the_order_of_what_was_asked(world: World) -> None:
    claims = [world.claim(one) for one in reversed(waiting(world, 3))]
    found = world.store.claims.finish_all([Ending(claim=one, carry_on=MINE) for one in claims])
    assert [one.experiment_id for one in found if isinstance(one, Claim)] == [
        one.experiment_id for one in claims
    ]


def test_different_kinds_are_refused(world: World) -> None:
    one, other = (world.claim(one) for one in waiting(world, 2))
    endings = [Ending(claim=one, carry_on=None), Ending(claim=other, carry_on=MINE)]
    with pytest.raises(ValueError, match="kinds"):
        world.store.claims.finish_all(endings)
    assert world.steps(one.experiment_id)[0] == "RUNNING"


def test_one_job_that_goes_no_usual_way_leaves_the_others_on_theirs(world: World) -> None:
    ids = waiting(world, 2, staging=False)
    for one in ids:
        world.until(one, SUBMIT)
    claims = [world.claim(one, SUBMIT) for one in ids]
    tokens = [world.intend(one) for one in claims]
    world.store.intake.cancel(ids[1])
    accepted = [
        Accepted(claim=claim, token=token, native_id="n")
        for claim, token in zip(claims, tokens, strict=True)
    ]
    assert world.store.jobs.submitted_all(accepted) == [None, Way.ELSEHOW]
    assert world.state(ids[0]) is ExperimentState.SUBMITTED
    with pytest.raises(FencedError):
        world.store.jobs.submitted_else(accepted[1])


def test_a_transaction_of_several_is_made_as_a_whole(world: World) -> None:
    """What the database refuses in one leaves nothing of the others."""
    claims = [world.claim(one) for one in waiting(world, 3, staging=False)]
    endings = [
        Ending(claim=one, carry_on=MINE, job=FirstJob(site="alpha", workdir="/scratch/x"))
        for one in claims
    ]
    other = world.running(SUBMIT, staging=False)
    world.intend(other)
    token = job_token(claims[1].experiment_id, 1)
    world.sql("UPDATE jobs SET token = :t", t=token)
    with pytest.raises(IntegrityError):
        world.store.claims.finish_all(endings)
    assert {world.step(one.experiment_id, SETUP).state for one in claims} == {StepState.RUNNING}
    assert not any(world.job_states(one.experiment_id) for one in claims)
    # and the connection is as good as before
    world.sql("DELETE FROM jobs")
    found = world.store.claims.finish_all(endings)
    assert [one.intent is not None for one in found if isinstance(one, Claim)] == [True] * 3
    assert [world.job_states(one.experiment_id) for one in claims] == [["INTENT"]] * 3


def test_claims_of_different_holders_are_recorded_apart(world: World) -> None:
    """They would get each other's names otherwise, where one statement serves all of them."""
    claims = [world.claim(one) for one in waiting(world, 2)]
    endings = [
        Ending(claim=claim, carry_on=holder(f"m{number}", worker=f"w{number}@host"))
        for number, claim in enumerate(claims)
    ]
    with pytest.raises(ValueError, match="holders"):
        world.store.claims.finish_all(endings)
