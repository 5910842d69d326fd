"""What control asks: what to send, what is missing, what may start."""

from __future__ import annotations

import pytest
from state.world import SETUP, STAGE_IN, STAGE_OUT, SUBMIT, World, caps

from wlm_tasks.model.states import StepState
from wlm_tasks.state.advance import NextStep
from wlm_tasks.state.politeness import SiteLimits
from wlm_tasks.state.upkeep import SentStep, segment


def test_unsent_is_what_is_ready_and_was_never_sent(world: World) -> None:
    world.add(sent=True)
    unsent = world.add(sent=False)
    world.into(StepState.HELD)  # its sweep's first member is ready, too
    found = world.store.upkeep.unsent(10)
    assert len(found) == 2
    assert NextStep(unsent, (SETUP, STAGE_IN, SUBMIT), 4) in found
    world.store.upkeep.mark_sent(found)
    assert world.store.upkeep.unsent(10) == []
    assert len(world.store.upkeep.ready(10)) == 3


def test_the_most_urgent_is_sent_first(world: World) -> None:
    ids = {p: world.add(priority=p, sent=False) for p in ("low", "urgent", "normal", "high")}
    order = [one.experiment_id for one in world.store.upkeep.unsent(10)]
    assert order == [ids[p] for p in ("urgent", "high", "normal", "low")]
    assert [one.experiment_id for one in world.store.upkeep.unsent(2)] == order[:2]
    assert [one.experiment_id for one in world.store.upkeep.ready(10)] == order


def test_what_was_ready_first_is_sent_first(world: World) -> None:
    first, second = world.add(sent=False), world.add(sent=False)
    world.past("ready_at", 5, second)
    order = [one.experiment_id for one in world.store.upkeep.unsent(10)]
    assert order == [second, first]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (SETUP, (SETUP, STAGE_IN, SUBMIT)),
        (STAGE_IN, (STAGE_IN, SUBMIT)),
        (SUBMIT, (SUBMIT,)),
        (STAGE_OUT, (STAGE_OUT,)),
    ],
)
def test_a_chain_ends_before_the_job(world: World, name: object, expected: object) -> None:
    experiment_id = world.add()
    world.until(experiment_id, name)  # type: ignore[arg-type]
    world.sql("UPDATE steps SET sent_at = NULL")
    [found] = world.store.upkeep.unsent(10)
    assert found.segment == expected


def test_a_chain_of_an_experiment_without_staging(world: World) -> None:
    world.add(sent=False, staging=False)
    assert [one.segment for one in world.store.upkeep.unsent(10)] == [(SETUP, SUBMIT)]
    assert segment([(0, "setup"), (1, "submit"), (2, "monitor")], 2) == ()


def test_only_what_still_waits_is_marked_as_sent(world: World) -> None:
    experiment_id = world.add(sent=False)
    found = world.store.upkeep.unsent(10)
    claim = world.claim(experiment_id)
    world.store.upkeep.mark_sent(found)
    assert world.step(experiment_id, SETUP).sent_at is None
    world.store.claims.finish(claim, carry_on=None)
    before = world.step(experiment_id, STAGE_IN)
    world.store.upkeep.mark_sent(found)
    assert world.step(experiment_id, STAGE_IN) == before


def test_many_are_marked_at_once(world: World) -> None:
    world.add_sweep(1200)
    world.store.upkeep.mark_sent(world.store.upkeep.unsent(2000))
    assert world.store.upkeep.unsent(10) == []
    assert world.store.upkeep.count_sent("envsetup", -1) == 1200


def test_the_sweeper_counts_what_was_sent_a_while_ago(world: World) -> None:
    old, _fresh, unsent = world.add(), world.add(), world.add(sent=False)
    other_queue = world.add()
    world.until(other_queue, STAGE_IN)
    running = world.into(StepState.RUNNING)
    for one in (old, unsent, other_queue, running):
        world.past("sent_at", 60, one)
    assert world.store.upkeep.count_sent("envsetup", 30) == 1
    assert world.store.upkeep.count_sent("envsetup", 90) == 0
    assert world.store.upkeep.count_sent("staging", 30) == 1
    assert world.store.upkeep.count_sent("jobsub", 30) == 0
    [found] = world.store.upkeep.oldest_sent("envsetup", 30, 10)
    assert (found.experiment_id, found.seq) == (old, 0)


def test_the_sweeper_takes_the_oldest(world: World) -> None:
    ids = [world.add() for _ in range(4)]
    for age, one in enumerate(ids):
        world.past("sent_at", 60 + age, one)
    found = world.store.upkeep.oldest_sent("envsetup", 30, 3)
    assert [one.experiment_id for one in found] == ids[:0:-1]


def test_only_what_is_still_missing_is_sent_again(world: World) -> None:
    waits, claimed, sent_since = (world.add() for _ in range(3))
    for one in (waits, claimed, sent_since):
        world.past("sent_at", 60, one)
    missing = world.store.upkeep.oldest_sent("envsetup", 30, 10)
    assert len(missing) == 3
    world.claim(claimed)
    again = [one for one in world.store.upkeep.ready(10) if one.experiment_id == sent_since]
    world.store.upkeep.mark_sent(again)
    found = world.store.upkeep.send_again(missing)
    assert found == [NextStep(waits, (SETUP, STAGE_IN, SUBMIT), 4)]
    assert world.store.upkeep.send_again([SentStep("exp-none", 0, 1.0)]) == []
    assert world.store.upkeep.send_again([]) == []


def test_many_missing(world: World) -> None:
    _sweep, ids = world.add_sweep(700)
    world.store.upkeep.mark_sent(world.store.upkeep.unsent(1000))
    missing = world.store.upkeep.oldest_sent("envsetup", -1, 1000)
    assert {one.experiment_id for one in world.store.upkeep.send_again(missing)} == set(ids)


# -- limits --------------------------------------------------------------------------------


def _held_submits(world: World, *priorities: str, site: str = "alpha") -> list[str]:
    """Experiments whose submit step is held because the site is full."""
    ids = []
    for priority in priorities:
        claim = world.running(SUBMIT, priority=priority, site=site)
        world.store.jobs.intend(claim, site=site, workdir="/w", limits=SiteLimits(max_running=0))
        assert world.step(claim.experiment_id, SUBMIT).state is StepState.HELD
        ids.append(claim.experiment_id)
    return ids


def _ready(world: World, ids: list[str], name: object = SUBMIT) -> list[bool]:
    return [world.step(one, name).state is StepState.READY for one in ids]  # type: ignore[arg-type]


def test_a_site_lets_as_many_go_as_it_has_room(world: World) -> None:
    world.submitted()
    ids = _held_submits(world, "normal", "urgent", "low", "high")
    assert world.store.upkeep.count_held() == 4
    release = world.store.upkeep.release_held
    assert release(caps(alpha=1)) == 0
    assert release(caps(beta=9)) == 0
    assert release(caps(alpha=3)) == 2
    assert _ready(world, ids) == [False, True, False, True]
    assert release(caps(alpha=3)) == 0  # those two are on their way
    step = world.step(ids[1], SUBMIT)
    assert (step.reason, step.sent_at) == (None, None)
    assert {one.experiment_id for one in world.store.upkeep.unsent(9)} == {ids[1], ids[3]}
    assert release(caps(alpha=None)) == 2
    assert world.store.upkeep.count_held() == 0


def test_a_claimed_submit_has_its_place(world: World) -> None:
    [first, second] = _held_submits(world, "high", "low")
    assert world.store.upkeep.release_held(caps(alpha=1)) == 1
    claim = world.claim(first, SUBMIT)  # claimed, and no intent yet
    assert world.store.upkeep.release_held(caps(alpha=1)) == 0
    world.intend(claim, max_running=1)
    assert world.store.upkeep.release_held(caps(alpha=1)) == 0
    assert world.store.upkeep.release_held(caps(alpha=2)) == 1
    assert _ready(world, [second]) == [True]


def test_each_site_for_itself(world: World) -> None:
    alpha = _held_submits(world, "low", "low")
    beta = _held_submits(world, "low", "low", site="beta")
    assert world.store.upkeep.release_held(caps(alpha=1, beta=2)) == 3
    assert (sum(_ready(world, alpha)), sum(_ready(world, beta))) == (1, 2)


def test_a_sweep_lets_the_next_go_when_one_has_ended(world: World) -> None:
    _sweep, ids = world.add_sweep(5, max_active=2, staging=False)
    release = world.store.upkeep.release_held
    assert release({}) == 0
    world.store.claims.fail(world.claim(ids[1]), "broken")
    assert release(caps(alpha=1)) == 1
    assert _ready(world, ids, SETUP) == [True, False, True, False, False]
    world.store.intake.cancel(ids[0])
    world.store.claims.pause(world.claim(ids[2]), "gave up")  # paused is still under way
    assert release({}) == 1
    assert _ready(world, ids, SETUP)[3:] == [True, False]
    world.store.intake.cancel(ids[2])
    world.store.intake.cancel(ids[3])
    assert release({}) == 1
    assert release({}) == 0


def test_sweeps_do_not_disturb_one_another(world: World) -> None:
    _first, ids = world.add_sweep(3, max_active=1)
    _second, others = world.add_sweep(3, max_active=1)
    world.store.intake.cancel(ids[0])
    assert world.store.upkeep.release_held({}) == 1
    assert _ready(world, ids, SETUP) == [False, True, False]
    assert _ready(world, others, SETUP) == [True, False, False]


def test_a_cancelled_member_that_waited_takes_no_place(world: World) -> None:
    _sweep, ids = world.add_sweep(4, max_active=1)
    world.store.intake.cancel(ids[1])
    assert world.store.upkeep.release_held({}) == 0
    world.store.intake.cancel(ids[0])
    assert world.store.upkeep.release_held({}) == 1
    assert _ready(world, ids, SETUP) == [False, False, True, False]


def test_a_raised_limit_lets_go_at_once(world: World) -> None:
    sweep, ids = world.add_sweep(5, max_active=1)
    world.sql("UPDATE sweeps SET max_active = 4 WHERE id = :s", s=sweep)
    assert world.store.upkeep.release_held({}) == 3
    assert _ready(world, ids, SETUP) == [True] * 4 + [False]
