"""How sites stand, by the rows: evidence, pauses, probes and load."""

from __future__ import annotations

from typing import Any

import pytest
from state.world import SETUP, STAGE_IN, STAGE_OUT, SUBMIT, World, caps, in_threads

from wlm_tasks.model.sites import POLL, Evidence, SiteState
from wlm_tasks.model.states import ExperimentState, JobRecord, StepState
from wlm_tasks.model.steps import StepName
from wlm_tasks.state.site_rows import Change, SiteRow
from wlm_tasks.state.sites import SITE_EVENT

S = SiteState
LIMITS = caps(alpha=None)


def report(
    world: World, state: S, by: str = POLL, reason: str | None = "no route", pause_s: float = 0.0
) -> Change | None:
    seen = Evidence(state=state, by=by, reason=reason)
    return world.store.sites.report("alpha", seen, who="w1@host", pause_s=pause_s)


def alpha(world: World) -> SiteRow:
    return world.store.sites.get("alpha")


def told(world: World) -> list[tuple[str, str, str | None]]:
    """Changes of sites in the event log: was, is, why."""
    events = [one for one in world.store.views.events() if one.state == SITE_EVENT]
    return [(one.detail["was"], one.detail["state"], one.detail["reason"]) for one in events]


def hold(world: World, name: StepName = SETUP, **fields: Any) -> str:
    """An experiment whose step met the trouble."""
    claim = world.running(name, **fields)
    world.store.claims.hold(claim, "site alpha: no route")
    return claim.experiment_id


def test_a_site_never_heard_of_is_up(world: World) -> None:
    assert alpha(world) == SiteRow(name="alpha")
    assert alpha(world).takes_work
    assert world.store.sites.all() == {}
    assert report(world, S.UP) is None
    assert told(world) == []


def test_trouble_and_its_end_are_told_once_each(world: World) -> None:
    begun = report(world, S.UNREACHABLE)
    assert begun is not None
    assert (begun.was, begun.state, begun.reason) == (S.UP, S.UNREACHABLE, "no route")
    assert report(world, S.UNREACHABLE, reason="timed out") is None
    assert report(world, S.UNREACHABLE, by="setup") is None
    row = alpha(world)
    assert (row.state, row.found_by, row.told_by, row.shown) == (
        S.UNREACHABLE, POLL, "w1@host", S.UNREACHABLE,
    )  # fmt: skip
    world.sql("UPDATE sites SET since = since - 60")
    ended = report(world, S.UP, reason=None)
    assert ended is not None
    assert (ended.was, ended.state, ended.reason) == (S.UNREACHABLE, S.UP, "no route")
    assert ended.lasted_s == pytest.approx(60, abs=5)
    assert report(world, S.UP) is None
    assert told(world) == [("UP", "UNREACHABLE", "no route"), ("UNREACHABLE", "UP", "no route")]


def test_the_latest_words_are_kept(world: World) -> None:
    report(world, S.UNREACHABLE, by="setup", reason="refused")
    report(world, S.UNREACHABLE, by=POLL, reason="timed out")
    assert (alpha(world).reason, alpha(world).found_by) == ("timed out", POLL)


def test_what_many_find_out_at_once_is_told_once(world: World) -> None:
    changes = in_threads(
        6, lambda number: report(world, S.UNREACHABLE, by=["setup", POLL][number % 2])
    )
    assert len([one for one in changes if isinstance(one, Change)]) == 1
    assert [one for one in changes if isinstance(one, Exception)] == []
    assert len(told(world)) == 1


def test_a_pause_is_kept_beside_the_trouble(world: World) -> None:
    sites = world.store.sites
    assert sites.pause("alpha", who="ada", reason="cooling")
    assert not sites.pause("alpha", who="ben", reason=None)
    assert (alpha(world).shown, alpha(world).state) == (S.PAUSED, S.UP)
    report(world, S.UNREACHABLE)
    assert (alpha(world).shown, alpha(world).state) == (S.PAUSED, S.UNREACHABLE)
    report(world, S.UP)
    row = alpha(world)
    assert (row.shown, row.paused_by, row.paused_reason) == (S.PAUSED, "ada", "cooling")
    assert sites.resume("alpha", who="ada")
    assert not sites.resume("alpha", who="ada")
    assert alpha(world).takes_work
    assert told(world)[0] == ("UP", "PAUSED", "cooling")
    assert told(world)[-1] == ("PAUSED", "UP", None)


def test_a_person_ends_both(world: World) -> None:
    report(world, S.AUTH_NEEDED)
    world.store.sites.pause("alpha", who="ada", reason=None)
    assert world.store.sites.resume("alpha", who="ada")
    assert (alpha(world).state, alpha(world).paused_at) == (S.UP, None)


# -- steps -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [SETUP, STAGE_IN, SUBMIT, STAGE_OUT])
def test_a_held_step_burns_no_try_and_goes_on_when_the_site_is_up(
    world: World, name: StepName
) -> None:
    report(world, S.UNREACHABLE, by=name)
    experiment_id = hold(world, name)
    step = world.step(experiment_id, name)
    assert (step.state, step.tries, step.crashes) == (StepState.HELD, 0, 0)
    assert step.reason == "site alpha: no route"
    assert world.state(experiment_id) in (ExperimentState.PREPARING, ExperimentState.FINISHING)
    assert world.store.upkeep.release_held(LIMITS) == 0
    assert world.store.upkeep.count_held() == 0  # nothing to hurry for
    report(world, S.UP, by=name)
    assert world.store.upkeep.count_held() == 1
    assert world.store.upkeep.release_held(LIMITS) == 1
    assert world.step(experiment_id, name).state is StepState.READY
    world.claim(experiment_id, name)


def test_a_pause_lets_outputs_home(world: World) -> None:
    world.store.sites.pause("alpha", who="ada", reason=None)
    inward, outward = hold(world, SETUP), hold(world, STAGE_OUT)
    assert world.store.upkeep.count_held() == 1
    assert world.store.upkeep.release_held(LIMITS) == 1
    assert world.step(inward, SETUP).state is StepState.HELD
    assert world.step(outward, STAGE_OUT).state is StepState.READY


def test_a_submit_that_has_its_intent_needs_no_place(world: World) -> None:
    claim = world.running(SUBMIT)
    world.intend(claim, max_running=1)
    world.store.claims.hold(claim, "site alpha: no route")
    assert world.store.upkeep.release_held(caps(alpha=1)) == 1


def test_the_limit_of_a_sweep_does_not_let_go_what_its_site_holds(world: World) -> None:
    _sweep, ids = world.add_sweep(3, max_active=2)
    report(world, S.UNREACHABLE, by="setup")
    for one in ids[:2]:
        world.store.claims.hold(world.claim(one), "site alpha: no route")
    assert world.store.upkeep.release_held(LIMITS) == 0
    report(world, S.UP, by="setup")
    assert world.store.upkeep.release_held(LIMITS) == 2
    assert [world.step(one, SETUP).state for one in ids] == ["READY", "READY", "HELD"]


def test_an_experiment_held_by_its_site_can_be_cancelled(world: World) -> None:
    experiment_id = hold(world)
    assert world.store.intake.cancel(experiment_id) is ExperimentState.CANCELLED


# -- probes ------------------------------------------------------------------------------------


def test_probes_are_due_in_their_time_and_not_twice(world: World) -> None:
    sites = world.store.sites
    report(world, S.UNREACHABLE, by="setup", pause_s=60)
    assert sites.to_probe() == []
    world.sql("UPDATE sites SET probe_at = probe_at - 61")
    [due] = sites.to_probe()
    assert sites.probe(due, 60) == ""  # nobody waits: ask the site itself
    assert sites.probe(due, 60) is None  # another control process was faster
    assert sites.to_probe() == []
    assert alpha(world).probes == 1


def test_one_step_tries_the_most_urgent_of_those_that_can_tell(world: World) -> None:
    sites = world.store.sites
    report(world, S.OVERLOADED, by="submit")
    hold(world, SETUP, priority="urgent")
    hold(world, SUBMIT, priority="low")
    tries = hold(world, SUBMIT, priority="high")
    [due] = sites.to_probe()
    assert sites.probe(due, 60) == tries
    assert world.step(tries, SUBMIT).state is StepState.READY
    assert alpha(world).probing == tries
    assert [one.experiment_id for one in world.store.upkeep.unsent(9)] == [tries]


def test_a_paused_site_is_asked_but_no_step_is_let_go(world: World) -> None:
    report(world, S.UNREACHABLE, by="setup")
    held = hold(world, SETUP)
    world.store.sites.pause("alpha", who="ada", reason=None)
    [due] = world.store.sites.to_probe()
    assert world.store.sites.probe(due, 60) == ""
    assert world.step(held, SETUP).state is StepState.HELD


def test_two_controls_let_one_step_go(world: World) -> None:
    report(world, S.UNREACHABLE, by="setup")
    for _ in range(6):
        hold(world, SETUP)
    [due] = world.store.sites.to_probe()
    found = in_threads(4, lambda _number: world.store.sites.probe(due, 60))
    assert sorted(str(one)[:3] for one in found) == ["Non", "Non", "Non", "exp"]
    assert len(world.store.upkeep.unsent(9)) == 1


# -- what there is -----------------------------------------------------------------------------


def test_how_busy_sites_are(world: World) -> None:
    assert world.store.sites.busy() == {}
    world.submitted()
    _id, token = world.submitted()
    world.report(token, JobRecord.RUNNING)
    hold(world, SETUP)
    busy = world.store.sites.busy()["alpha"]
    assert (busy.queued, busy.running, busy.held) == (1, 1, 1)


def test_when_sites_were_polled(world: World) -> None:
    assert world.store.polls.times() == {}
    world.store.polls.sent("alpha")
    world.store.polls.done("alpha", None)
    assert world.store.polls.times()["alpha"] == pytest.approx(world.store.views.now(), abs=5)
