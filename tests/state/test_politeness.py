"""What we allow ourselves at a site, counted in the rows."""

from __future__ import annotations

from typing import Any

import pytest
from state.world import SUBMIT, World, caps, in_threads

from wlm_tasks.model.states import JobRecord, StepState
from wlm_tasks.state.holders import Claim
from wlm_tasks.state.intents import Held, Intent
from wlm_tasks.state.politeness import SiteLimits

ONE_A_MINUTE = SiteLimits(submit_per_s=1 / 60)


def intend(world: World, claim: Claim, **limits: Any) -> Intent | Held:
    return world.store.jobs.intend(claim, site="alpha", workdir="/w", limits=SiteLimits(**limits))


def goes(got: Intent | Held) -> Intent:
    assert isinstance(got, Intent), got
    return got


def held(got: Intent | Held) -> str:
    assert isinstance(got, Held), got
    return got.reason


def release(world: World, **limits: Any) -> int:
    return world.store.upkeep.release_held({"alpha": SiteLimits(**limits)})


def released(world: World) -> set[str]:
    return {one.experiment_id for one in world.store.upkeep.unsent(99)}


def hold(world: World, **fields: Any) -> str:
    """An experiment whose submit waits for a place."""
    claim = world.running(SUBMIT, **fields)
    held(intend(world, claim, max_running=0))
    return claim.experiment_id


# -- caps --------------------------------------------------------------------------------------


def test_jobs_of_others_take_places(world: World) -> None:
    first, second = world.running(SUBMIT), world.running(SUBMIT)
    world.store.sites.counted("alpha", queued=3, running=4, foreign=5)
    goes(intend(world, first, max_running=6))
    reason = held(intend(world, second, max_running=6))
    assert reason == "site alpha: runs as many jobs as it may (6, 5 of them not ours)"
    assert world.step(second.experiment_id, SUBMIT).state is StepState.HELD
    assert release(world, max_running=6) == 0
    world.store.sites.counted("alpha", queued=3, running=3, foreign=4)
    assert release(world, max_running=6) == 1


def test_a_cap_on_what_waits_there(world: World) -> None:
    claims = [world.running(SUBMIT) for _ in range(3)]
    world.store.sites.counted("alpha", queued=2, running=9, foreign=11)
    goes(intend(world, claims[0], max_queued=4))
    goes(intend(world, claims[1], max_queued=4))
    reason = held(intend(world, claims[2], max_queued=4))
    assert reason.startswith("site alpha: has as many jobs in its queue as it may (4")
    assert release(world, max_queued=4) == 0
    world.store.sites.counted("alpha", queued=3, running=9, foreign=11)  # counts our two, too
    assert release(world, max_queued=4) == 1


def test_without_a_count_of_the_site_ours_are_counted(world: World) -> None:
    claims = [world.running(SUBMIT) for _ in range(2)]
    _id, token = world.submitted()
    goes(intend(world, claims[0], max_queued=2))
    held(intend(world, claims[1], max_queued=2))
    assert release(world, max_queued=2) == 0
    world.report(token, JobRecord.RUNNING)
    assert release(world, max_queued=2) == 1


def test_what_came_while_the_site_was_asked_is_counted_rather_twice(world: World) -> None:
    claims = [world.running(SUBMIT) for _ in range(2)]
    world.store.polls.begin("alpha", "m1", spacing_s=0, lease_s=60)
    goes(intend(world, claims[0], max_queued=2))
    world.store.sites.counted("alpha", queued=1, running=0, foreign=1)  # ours was not seen
    held(intend(world, claims[1], max_queued=2))


@pytest.mark.parametrize(
    "limits",
    [{"max_running": 3}, {"max_queued": 3}, {"submit_per_s": 3}],
    ids=["running", "queued", "rate"],
)
def test_many_at_once_stay_below_the_limit(world: World, limits: dict[str, int]) -> None:
    claims = [world.running(SUBMIT) for _ in range(6)]
    got = in_threads(6, lambda number: intend(world, claims[number], **limits))
    assert sorted(type(one).__name__ for one in got) == ["Held"] * 3 + ["Intent"] * 3


# -- rate --------------------------------------------------------------------------------------


def test_the_rate_is_told(world: World) -> None:
    goes(intend(world, world.running(SUBMIT), submit_per_s=0.5))
    reason = held(intend(world, world.running(SUBMIT), submit_per_s=0.5))
    assert reason == "site alpha: takes at most 0.5 submits a second"


def test_the_bucket_fills_with_time_and_no_further(world: World) -> None:
    claims = [world.running(SUBMIT) for _ in range(4)]
    slow = {"alpha": ONE_A_MINUTE}
    let_go = world.store.upkeep.release_held
    goes(intend(world, claims[0], submit_per_s=1 / 60))
    for claim in claims[1:]:
        held(intend(world, claim, submit_per_s=1 / 60))
    assert let_go(slow) == 0
    world.sql("UPDATE sites SET tokens_at = tokens_at - 61")
    assert let_go(slow) == 1
    assert let_go(slow) == 0  # that one is on its way
    world.sql("UPDATE sites SET tokens_at = tokens_at - 600")
    assert let_go(slow) == 0
    [ready] = world.store.upkeep.unsent(9)
    goes(intend(world, world.claim(ready.experiment_id, SUBMIT), submit_per_s=1 / 60))


def test_who_has_its_token_needs_none_of_the_bucket(world: World) -> None:
    claim = world.running(SUBMIT)
    first = goes(intend(world, claim, submit_per_s=1 / 60))
    again = goes(intend(world, claim, submit_per_s=1 / 60))
    assert (again.token, again.first) == (first.token, False)


# -- shares ------------------------------------------------------------------------------------


def test_free_places_are_shared_between_owners(world: World) -> None:
    owners = {hold(world, owner=owner): owner for owner in ["ada"] * 5 + ["ben"] * 2}
    assert world.store.upkeep.release_held(caps(alpha=4)) == 4
    assert sorted(owners[one] for one in released(world)) == ["ada", "ada", "ben", "ben"]


def test_but_the_urgent_come_first(world: World) -> None:
    for _ in range(2):
        hold(world, owner="ben")
    urgent = {hold(world, owner="ada", priority="urgent") for _ in range(3)}
    assert world.store.upkeep.release_held(caps(alpha=3)) == 3
    assert released(world) == urgent


def test_an_owner_of_running_jobs_waits_for_the_others(world: World) -> None:
    for _ in range(2):
        world.submitted(owner="ada")
    owners = {hold(world, owner=owner): owner for owner in ("ada", "ada", "ben", "ben")}
    assert world.store.upkeep.release_held(caps(alpha=4)) == 2
    assert {owners[one] for one in released(world)} == {"ben"}


def test_who_comes_late_takes_no_place_of_those_who_wait(world: World) -> None:
    waits = hold(world, owner="ben")
    late = world.running(SUBMIT, owner="ada")
    held(intend(world, late, max_running=1))  # though the place is free
    assert world.store.upkeep.release_held(caps(alpha=1)) == 1
    assert released(world) == {waits}
    held(intend(world, world.running(SUBMIT, owner="ada"), max_running=1))  # it is promised
    goes(intend(world, world.claim(waits, SUBMIT), max_running=1))


def test_but_what_they_leave_is_free(world: World) -> None:
    hold(world, owner="ben")
    goes(intend(world, world.running(SUBMIT, owner="ada"), max_running=2))
    held(intend(world, world.running(SUBMIT, owner="ada"), max_running=2))
    goes(intend(world, world.running(SUBMIT, owner="ada", priority="urgent"), max_running=2))


def test_who_was_let_go_passes_those_who_still_wait(world: World) -> None:
    hold(world), hold(world)
    assert world.store.upkeep.release_held(caps(alpha=1)) == 1
    [first] = released(world)
    goes(intend(world, world.claim(first, SUBMIT), max_running=1))


def test_no_owner_is_an_owner_too(world: World) -> None:
    owners = {hold(world, **who): who for who in ({}, {}, {}, {"owner": "ada"})}
    assert world.store.upkeep.release_held(caps(alpha=2)) == 2
    assert [owners[one] for one in released(world)].count({"owner": "ada"}) == 1


def test_a_job_that_is_known_already_is_no_rival(world: World) -> None:
    """A submit held by trouble in the middle of it keeps the place it has."""
    claim = world.running(SUBMIT, priority="urgent")
    goes(intend(world, claim, max_running=2))
    world.store.claims.hold(claim, "site alpha: no route")
    goes(intend(world, world.running(SUBMIT), max_running=2))
