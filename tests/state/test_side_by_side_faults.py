"""What befalls one of the steps that go side by side leaves the others alone."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import pytest
from state.rig import Rig, at
from state.world import SETUP, SUBMIT, holder

from services.processes import wait_for
from wlm_tasks.errors import JobRejectedError, ServiceError, SiteUnreachableError
from wlm_tasks.model.states import ExperimentState, StepState
from wlm_tasks.state.holders import Claim
from wlm_tasks.tasks import batch

MINE = holder("mine")


@pytest.mark.parametrize("what", ["let_go", "finish_all"])
def test_what_relief_cannot_do_the_slot_does_in_the_end(
    quick: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    monkeypatch.setattr(batch, "_PATIENCE_S", 0.1)
    ids = [quick.add() for _ in range(4)]
    thing: Any = quick.world.store.batches if what == "let_go" else quick.world.store.claims
    real, tried = getattr(thing, what), threading.Event()

    def failing(*args: Any) -> Any:
        if not tried.is_set() or threading.current_thread().name == "relief":
            tried.set()
            raise ServiceError("database: gone")
        return real(*args)

    monkeypatch.setattr(thing, what, failing)
    monkeypatch.setattr("wlm_tasks.tasks.patience.time.sleep", lambda _s: None)
    object.__setattr__(quick.app.settings.steps, "slice_s", 0.0)

    def until_told() -> None:
        wait_for(lambda: "were not given back" in caplog.text, 10, "the fault in the log")

    at(quick, monkeypatch, 2, until_told)
    quick.duties.dispatch()
    quick.engine.work(ids[0], SETUP, MINE)
    assert quick.calls("prepare") == 4
    assert {quick.world.step(one, SETUP).state for one in ids} == {StepState.DONE}


def test_a_passing_fault_while_results_are_recorded_costs_nothing(
    quick: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the reads that go before a transaction, too."""
    ids = [quick.add() for _ in range(4)]
    is_open, asked = quick.engine._gate.is_open, []

    def away(*args: Any) -> bool:
        asked.append(args)
        if len(asked) % 2:
            raise ServiceError("database: gone")
        return is_open(*args)

    monkeypatch.setattr(quick.engine._gate, "is_open", away)
    monkeypatch.setattr("wlm_tasks.tasks.patience.time.sleep", lambda _s: None)
    quick.work()
    quick.poll()
    assert {quick.world.state(one) for one in ids} == {ExperimentState.DONE}
    assert {quick.world.step(one, SETUP).crashes for one in ids} == {0}
    assert quick.calls("prepare") == quick.calls("submit") == 4


def test_a_fault_of_one_does_not_undo_what_others_have_done(
    quick: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database stays away in the third: two are recorded, the last is given back."""
    ids = [quick.add() for _ in range(4)]

    def away() -> None:
        raise ServiceError("database: gone")

    at(quick, monkeypatch, 3, away)
    quick.duties.dispatch()
    with pytest.raises(ServiceError):
        quick.engine.work(ids[0], SETUP, MINE)
    states = Counter(quick.world.step(one, SETUP).state for one in ids)
    assert states == {StepState.DONE: 2, StepState.RUNNING: 1, StepState.READY: 1}


@pytest.mark.parametrize("what", ["finish_all", "submitted_all"])
def test_one_that_cannot_be_recorded_does_not_hold_up_the_others(
    quick: Rig, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    ids = sorted(quick.add() for _ in range(4))
    thing: Any = quick.engine._claims if what == "finish_all" else quick.world.store.jobs
    real = getattr(thing, what)

    def spoilt(several: Any) -> Any:
        if any(one.claim.experiment_id == ids[2] for one in several):
            raise ValueError("cannot be written")
        return real(several)

    monkeypatch.setattr(thing, what, spoilt)
    quick.duties.dispatch()
    quick.engine.work(ids[0], SETUP, MINE)
    name = SETUP if what == "finish_all" else SUBMIT
    states = [quick.world.step(one, name).state for one in ids]
    assert states == [StepState.DONE, StepState.DONE, StepState.RUNNING, StepState.DONE]


def test_whoever_lost_its_channel_and_lives_takes_its_crashes_back(
    quick: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [quick.add() for _ in range(3)]
    quick.duties.dispatch()

    def taken_over() -> None:
        claims = quick.engine._claims
        assert isinstance(claims.claim(ids[0], SETUP, holder("mine", redelivered=True)), Claim)
        quick.app.runtime.stopping.set()

    at(quick, monkeypatch, 1, taken_over)
    quick.engine.work(ids[0], SETUP, MINE)
    assert {quick.world.step(one, SETUP).crashes for one in ids} == {0}


def test_a_step_whose_claim_is_lost_is_not_begun(
    quick: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [quick.add() for _ in range(3)]
    quick.duties.dispatch()

    def cancelled() -> None:
        quick.world.store.intake.cancel(ids[2])
        quick.engine._claims.renew(list(quick.engine._heartbeat._held.values()), 60.0)

    at(quick, monkeypatch, 1, cancelled)
    quick.engine.work(ids[0], SETUP, MINE)
    assert quick.calls("prepare") == 2
    assert quick.world.state(ids[2]) is ExperimentState.CANCELLED


@pytest.mark.parametrize("fault", ["permanent", "trouble", "cancelled"])
def test_what_befalls_one_leaves_the_others_alone(
    quick: Rig, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    ids = [quick.add() for _ in range(4)]
    world, faults = quick.world, {
        "permanent": JobRejectedError("no such account"),
        "trouble": SiteUnreachableError("no route to host"),
    }  # fmt: skip
    quick.duties.dispatch()
    if fault == "cancelled":
        at(quick, monkeypatch, 1, lambda: world.store.intake.cancel(ids[0]))
    else:
        quick.fake.fail("prepare", faults[fault])
    quick.engine.work(ids[0], SETUP, MINE)
    expected = {
        "permanent": (ExperimentState.FAILED, StepState.FAILED),
        "trouble": (ExperimentState.PREPARING, StepState.HELD),
        "cancelled": (ExperimentState.CANCELLED, StepState.CANCELLED),
    }[fault]
    assert (world.state(ids[0]), world.step(ids[0], SETUP).state) == expected
    others = {world.step(one, SETUP).state for one in ids[1:]}
    # of a site in trouble nothing more is asked
    assert others == {StepState.HELD if fault == "trouble" else StepState.DONE}
    assert quick.calls("prepare") == (1 if fault == "trouble" else 4)
    if fault == "trouble":
        quick.time_for_a_probe()
        quick.tick()
        quick.tick()
    quick.work()
    quick.poll()
    ended = {world.state(one) for one in ids[fault != "trouble" :]}
    assert ended == {ExperimentState.DONE}


def test_a_message_of_a_dead_holder_takes_over_one_and_frees_the_others(quick: Rig) -> None:
    ids = sorted(quick.world.add(staging=False) for _ in range(4))
    store = quick.world.store
    lead = quick.world.claim(ids[0], message="m1")
    store.batches.claim_like(lead, holder("m1"), "alpha", 16)  # and its worker is killed
    assert {quick.world.step(one, SETUP).state for one in ids} == {StepState.RUNNING}
    quick.engine.work(ids[0], SETUP, holder("m1", worker="w2@host", redelivered=True))
    crashes = Counter(quick.world.step(one, SETUP).crashes for one in ids)
    assert crashes == {1: 4}
    # each of them is alone from now on, so that the one that kills its workers takes no other along
    ready = [one for one in ids if quick.world.step(one, SETUP).state is StepState.READY]
    assert len(ready) == 3
    fresh = quick.world.add(staging=False)
    claim = quick.world.claim(ready[0])
    assert [one.experiment_id for one in store.batches.claim_like(claim, MINE, "alpha", 16)] == [
        fresh
    ]
    quick.work()
    quick.poll()
    assert {quick.world.step(one, SETUP).crashes for one in ids} == {1}


def test_poison_takes_no_company(quick: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(quick.world.store.batches, "claim_like", lambda *args: asked.append(args))
    one, _other = quick.add(), quick.add()
    quick.world.sql("UPDATE steps SET crashes = 1 WHERE experiment_id = :e AND seq = 0", e=one)
    quick.duties.dispatch()
    quick.engine.work(one, SETUP, MINE)
    assert asked == []


def test_a_database_away_in_the_middle_loses_nothing(
    quick: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [quick.add() for _ in range(4)]
    claims = quick.engine._claims
    finish_all = claims.finish_all
    failed: list[Any] = []

    def away(endings: Any) -> Any:
        if len(failed) < 2:
            failed.append(endings)
            raise ServiceError("database: gone")
        return finish_all(endings)

    monkeypatch.setattr(claims, "finish_all", away)
    monkeypatch.setattr("wlm_tasks.tasks.patience.time.sleep", lambda _s: None)
    quick.work()
    quick.poll()
    assert {quick.world.state(one) for one in ids} == {ExperimentState.DONE}
    assert len(failed) == 2
    assert quick.calls("submit") == 4
