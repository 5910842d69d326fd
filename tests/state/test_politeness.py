"""What we allow ourselves at a site, counted in the rows."""

from __future__ import annotations

from typing import Any

from state.world import SUBMIT, World, experiment, in_threads

from wlm_tasks.model.states import JobRecord, StepState
from wlm_tasks.state.claims import Claim
from wlm_tasks.state.jobs import Held, Intent
from wlm_tasks.state.politeness import Politeness

ONE_A_MINUTE = Politeness(submit_per_s=1 / 60)


def intend(
    world: World, claim: Claim, max_running: int | None = None, **polite: Any
) -> Intent | Held:
    return world.store.jobs.intend(
        claim, site="alpha", workdir="/w", max_running=max_running, polite=Politeness(**polite)
    )


def held(got: Intent | Held) -> str:
    assert isinstance(got, Held)
    return got.reason


def test_jobs_of_others_take_places(world: World) -> None:
    first, second = world.running(SUBMIT), world.running(SUBMIT)
    world.store.sites.counted("alpha", queued=3, running=4, foreign=5)
    assert isinstance(intend(world, first, max_running=6), Intent)
    reason = held(intend(world, second, max_running=6))
    assert reason == "site alpha: runs as many jobs as it may (6, 5 of them not ours)"
    assert world.step(second.experiment_id, SUBMIT).state is StepState.HELD
    assert world.store.upkeep.release_held({"alpha": 6}) == 0
    world.store.sites.counted("alpha", queued=3, running=3, foreign=4)
    assert world.store.upkeep.release_held({"alpha": 6}) == 1


def test_a_cap_on_what_waits_there(world: World) -> None:
    claims = [world.running(SUBMIT) for _ in range(3)]
    world.store.sites.counted("alpha", queued=2, running=9, foreign=11)
    assert isinstance(intend(world, claims[0], max_queued=4), Intent)
    assert isinstance(intend(world, claims[1], max_queued=4), Intent)
    reason = held(intend(world, claims[2], max_queued=4))
    assert reason.startswith("site alpha: has as many jobs in its queue as it may (4")
    polite = {"alpha": Politeness(max_queued=4)}
    assert world.store.upkeep.release_held({"alpha": None}, polite) == 0
    world.store.sites.counted("alpha", queued=3, running=9, foreign=11)  # counts our two, too
    assert world.store.upkeep.release_held({"alpha": None}, polite) == 1


def test_without_a_count_of_the_site_ours_are_counted(world: World) -> None:
    claims = [world.running(SUBMIT) for _ in range(2)]
    _id, token = world.submitted()
    assert isinstance(intend(world, claims[0], max_queued=2), Intent)
    held(intend(world, claims[1], max_queued=2))
    polite = {"alpha": Politeness(max_queued=2)}
    assert world.store.upkeep.release_held({"alpha": None}, polite) == 0
    world.report(token, JobRecord.RUNNING)
    assert world.store.upkeep.release_held({"alpha": None}, polite) == 1


def test_a_rate_of_submits_over_all_workers(world: World) -> None:
    claims = [world.running(SUBMIT) for _ in range(6)]
    got = in_threads(6, lambda number: intend(world, claims[number], submit_per_s=3))
    assert len([one for one in got if isinstance(one, Intent)]) == 3
    reasons = {one.reason for one in got if isinstance(one, Held)}
    assert reasons == {"site alpha: takes at most 3 submits a second"}


def test_the_bucket_fills_with_time_and_no_further(world: World) -> None:
    claims = [world.running(SUBMIT) for _ in range(4)]
    polite = {"alpha": ONE_A_MINUTE}
    release = world.store.upkeep.release_held
    assert isinstance(intend(world, claims[0], submit_per_s=1 / 60), Intent)
    for claim in claims[1:]:
        held(intend(world, claim, submit_per_s=1 / 60))
    assert release({"alpha": None}, polite) == 0
    world.sql("UPDATE sites SET tokens_at = tokens_at - 61")
    assert release({"alpha": None}, polite) == 1
    assert release({"alpha": None}, polite) == 0  # that one is on its way
    world.sql("UPDATE sites SET tokens_at = tokens_at - 600")
    assert release({"alpha": None}, polite) == 0
    [ready] = world.store.upkeep.unsent(9)
    claim = world.claim(ready.experiment_id, SUBMIT)
    assert isinstance(intend(world, claim, submit_per_s=1 / 60), Intent)


def test_who_has_its_token_needs_none_of_the_bucket(world: World) -> None:
    claim = world.running(SUBMIT)
    first = intend(world, claim, submit_per_s=1 / 60)
    assert isinstance(first, Intent)
    again = intend(world, claim, submit_per_s=1 / 60)
    assert isinstance(again, Intent)
    assert (again.token, again.first) == (first.token, False)


def test_free_places_are_shared_between_owners(world: World) -> None:
    ids: dict[str, str] = {}
    for owner, count in (("ada", 5), ("ben", 2)):
        for _ in range(count):
            claim = world.running(SUBMIT, owner=owner)
            held(intend(world, claim, max_running=0))
            ids[claim.experiment_id] = owner
    assert world.store.upkeep.release_held({"alpha": 4}) == 4
    owners = [ids[one.experiment_id] for one in world.store.upkeep.unsent(9)]
    assert sorted(owners) == ["ada", "ada", "ben", "ben"]


def test_but_the_urgent_come_first(world: World) -> None:
    for _ in range(2):
        held(intend(world, world.running(SUBMIT, owner="ben"), max_running=0))
    urgent = [world.running(SUBMIT, owner="ada", priority="urgent") for _ in range(3)]
    for claim in urgent:
        held(intend(world, claim, max_running=0))
    assert world.store.upkeep.release_held({"alpha": 3}) == 3
    released = {one.experiment_id for one in world.store.upkeep.unsent(9)}
    assert released == {claim.experiment_id for claim in urgent}


def test_an_owner_of_running_jobs_waits_for_the_others(world: World) -> None:
    for _ in range(2):
        world.submit(_ready(world, "ada"))
    for owner in ("ada", "ada", "ben", "ben"):
        held(intend(world, world.claim(_ready(world, owner), SUBMIT), max_running=0))
    assert world.store.upkeep.release_held({"alpha": 4}) == 2
    owners = {
        world.store.views.experiment(one.experiment_id).owner
        for one in world.store.upkeep.unsent(9)
    }
    assert owners == {"ben"}


def _ready(world: World, owner: str) -> str:
    experiment_id = world.add(experiment(owner=owner))
    world.until(experiment_id, SUBMIT)
    return experiment_id
