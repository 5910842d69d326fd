"""A site that is paused or limited, and workers who carry on from step to step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from state.rig import Rig
from state.world import SUBMIT

from wlm_tasks.compute.base import JobState, SiteLoad
from wlm_tasks.compute.fake import FakeOutcome
from wlm_tasks.model.states import ExperimentState, StepState
from wlm_tasks.state.site_rows import SiteRow
from wlm_tasks.tasks import gate


def then(monkeypatch: pytest.MonkeyPatch, thing: Any, name: str, act: Callable[[], object]) -> None:
    """Let something happen right after this was called once."""
    done = getattr(thing, name)

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(thing, name, done)
        result = done(*args, **kwargs)
        act()
        return result

    monkeypatch.setattr(thing, name, wrapper)


def test_a_site_paused_while_a_step_runs_gets_no_intent(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = rig.add()
    backend: Any = rig.app.runtime.site("alpha").backend
    then(monkeypatch, backend, "prepare", rig.pause)
    rig.work()
    step = rig.world.step(one, SUBMIT)
    assert (step.state, step.reason) == (StepState.HELD, "site alpha: paused by ada")
    assert rig.world.job_states(one) == []


def test_a_pause_between_intent_and_submit_keeps_the_token(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = rig.add()
    then(monkeypatch, rig.engine._claims, "finish_all", rig.pause)
    rig.work()
    assert rig.world.job_states(one) == ["INTENT"]
    assert rig.world.step(one, SUBMIT).state is StepState.HELD
    assert rig.calls("submit") == 0
    assert rig.tick() == 0
    rig.resume()
    assert rig.tick() == 1
    assert rig.calls("submit") == 1
    rig.poll()
    assert rig.world.state(one) is ExperimentState.DONE
    assert [job.number for job in rig.world.store.views.jobs(one)] == [1]


@pytest.mark.parametrize(
    "limits", [{"max_running": 1}, {"max_queued": 1}, {"submit_per_s": 1 / 60}]
)
def test_who_carries_on_is_counted_like_any_other(rig: Rig, limits: dict[str, float]) -> None:
    for name, value in limits.items():
        object.__setattr__(rig.app.settings.sites["alpha"], name, value)
    rig.fake.plan("melt", FakeOutcome(exit_code=None))
    ids = [rig.add() for _ in range(3)]
    rig.work()
    states = [rig.world.step(one, SUBMIT).state for one in ids]
    assert sorted(states) == [StepState.DONE, StepState.HELD, StepState.HELD]
    assert sum(len(rig.world.job_states(one)) for one in ids) == 1


def test_work_on_a_site_that_is_up_asks_nothing_about_it(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "_KNOWN_S", 60.0)
    asked: list[str] = []
    get = rig.world.store.sites.get

    def noted(name: str) -> SiteRow:
        asked.append(name)
        return get(name)

    monkeypatch.setattr(rig.world.store.sites, "get", noted)
    for _ in range(10):
        rig.add()
    assert rig.work() == 10
    assert asked == ["alpha"]
    assert rig.calls("submit") == 10


# -- limits ------------------------------------------------------------------------------------


def test_jobs_of_others_hold_ours_until_they_have_ended(rig: Rig) -> None:
    object.__setattr__(rig.app.settings.sites["alpha"], "max_running", 4)
    first = rig.add()
    rig.fake.load = SiteLoad(queued=1, running=3, foreign=4)
    rig.work()  # nobody knew yet
    rig.poll()
    assert rig.world.state(first) is ExperimentState.DONE
    ids = [rig.add() for _ in range(3)]
    rig.work()
    reasons = {rig.world.step(one, SUBMIT).reason for one in ids}
    assert reasons == {"site alpha: runs as many jobs as it may (4, 4 of them not ours)"}
    assert rig.duties.release() == 3
    assert rig.work() == 0
    rig.fake.load = SiteLoad(queued=0, running=2, foreign=2)
    rig.world.sql("UPDATE polls SET sent_at = sent_at - 100, done_at = done_at - 100")
    assert rig.duties.poll() == 1  # though no job of ours is there
    rig.sent.system.clear()
    rig.poll()
    for _ in range(3):
        rig.tick()
        rig.poll()
    assert {rig.world.state(one) for one in ids} == {ExperimentState.DONE}


def test_a_count_that_cannot_be_made_anew_holds_only_for_a_while(rig: Rig) -> None:
    object.__setattr__(rig.app.settings.sites["alpha"], "max_queued", 2)
    rig.fake.plan("melt", FakeOutcome(exit_code=None))
    rig.add()
    rig.work()
    rig.fake.load = SiteLoad(queued=2, running=1, foreign=2)
    assert rig.poll() is None
    second = rig.add()
    rig.work()
    rig.fake.load = None
    assert rig.poll() is None
    assert rig.tick() == 0
    reason = "site alpha: has as many jobs in its queue as it may (2, 2 of them not ours)"
    assert rig.world.step(second, SUBMIT).reason == reason
    rig.world.sql("UPDATE sites SET load_at = load_at - 1000")
    assert rig.poll() is None
    assert (rig.site().queued, rig.site().foreign_jobs, rig.site().load_at) == (None, None, None)
    assert rig.tick() == 1
    assert rig.world.state(second) is ExperimentState.SUBMITTED


def test_two_owners_share_and_each_job_runs_once(rig: Rig) -> None:
    object.__setattr__(rig.app.settings.sites["alpha"], "max_running", 2)
    rig.fake.plan("melt", FakeOutcome(exit_code=None))
    owners = {rig.add(owner="ada"): "ada" for _ in range(12)}
    rig.work()
    owners |= {rig.add(owner="ben"): "ben" for _ in range(3)}
    rig.work()
    order: list[str] = []
    for _ in range(40):
        running = [t for t, job in rig.fake.jobs.items() if job.status.state is JobState.RUNNING]
        assert len(running) <= 2
        for token in running:
            order.append(owners[f"exp-{token.split('-')[1]}"])
            rig.fake.finish(token)
        rig.poll()
        rig.tick()
    assert {rig.world.state(one) for one in owners} == {ExperimentState.DONE}
    assert (len(order), rig.calls("submit")) == (15, 15)
    assert order[:2] == ["ada", "ada"]
    assert sorted(order[2:8]) == ["ada"] * 3 + ["ben"] * 3
