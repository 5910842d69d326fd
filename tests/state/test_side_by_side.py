"""Short steps that one slot takes their way side by side."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from state.rig import Rig
from state.world import SETUP, SUBMIT, holder

from services.processes import wait_for
from wlm_tasks.errors import JobRejectedError, ServiceError, SiteUnreachableError
from wlm_tasks.model.states import ExperimentState, StepState
from wlm_tasks.model.steps import StepName
from wlm_tasks.state.holders import Claim
from wlm_tasks.tasks import batch, engine

MINE = holder("mine")


@pytest.fixture
def quick(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """All steps are known to take a moment only; a host that is slow now changes nothing."""
    monkeypatch.setattr(engine, "_ROUND_S", 60.0)
    monkeypatch.setattr(batch, "_PATIENCE_S", 60.0)
    monkeypatch.setattr(rig.engine._pace, "room", lambda _site, _name: 16)
    return rig


def at(rig: Rig, monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], object]) -> None:
    """Do something while the so-manyth directory is made."""
    backend: Any = rig.app.runtime.site("alpha").backend
    prepare, made = backend.prepare, []

    def acting(*args: Any, **more: Any) -> None:
        made.append(args)
        prepare(*args, **more)
        if len(made) == number:
            act()

    monkeypatch.setattr(backend, "prepare", acting)


def starts(rig: Rig, name: StepName) -> Counter[str]:
    """How often each experiment's step of this name was claimed."""
    seqs = {SETUP: 0, SUBMIT: 1}
    events = rig.world.store.views.events()
    return Counter(
        one.experiment_id or ""
        for one in events
        if (one.step, one.state) == (seqs[name], "RUNNING")
    )


def test_one_message_brings_all_to_their_end(quick: Rig) -> None:
    ids = [quick.add() for _ in range(10)]
    assert quick.work() == 10
    assert {quick.world.state(one) for one in ids} <= {
        ExperimentState.SUBMITTED, ExperimentState.DONE,
    }  # fmt: skip
    for name in (SETUP, SUBMIT):
        assert starts(quick, name) == dict.fromkeys(ids, 1)
    with quick.world.store.database.read() as connection:
        messages = set(connection.exec_driver_sql("SELECT message_id FROM steps").scalars())
    assert messages == {None}
    assert quick.calls("submit") == 10
    quick.poll()
    assert {quick.world.state(one) for one in ids} == {ExperimentState.DONE}


def test_of_a_step_nothing_is_known_of_only_one_is_claimed(rig: Rig) -> None:
    ids = [rig.add() for _ in range(3)]
    seen: list[int] = []
    backend: Any = rig.app.runtime.site("alpha").backend
    prepare = backend.prepare

    def looking(*args: Any, **more: Any) -> None:
        seen.append(sum(rig.world.step(one, SETUP).state is StepState.RUNNING for one in ids))
        prepare(*args, **more)

    backend.prepare = looking
    rig.duties.dispatch()
    rig.engine.work(ids[0], SETUP, MINE)
    assert seen == [1]


def test_a_slow_step_keeps_nobody_waiting(quick: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "_PATIENCE_S", 0.1)
    ids = [quick.add() for _ in range(5)]
    world = quick.world

    def wait_for_the_others() -> None:
        # two were made, one is in hand, the others are still to be made by somebody else
        def relieved() -> bool:
            states = Counter(world.step(one, SETUP).state for one in ids)
            return states == {StepState.DONE: 2, StepState.RUNNING: 1, StepState.READY: 2}

        wait_for(relieved, 10, "the others are taken away from the slow one")

    at(quick, monkeypatch, 3, wait_for_the_others)
    quick.duties.dispatch()
    quick.sent.take_chains()
    quick.engine.work(ids[0], SETUP, MINE)
    # those that were recorded meanwhile go on by messages, as whoever has the time takes them
    assert Counter(step.segment[0] for step in quick.sent.take_chains()) == {SUBMIT: 2}
    assert [step.segment[0] for step in world.store.upkeep.unsent(10)] == [SETUP, SETUP]
    quick.work()
    while any(world.step(one, SETUP).state is not StepState.DONE for one in ids):
        quick.work()
    assert quick.calls("prepare") == 5


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


def test_what_does_not_carry_on_is_sent_before_the_next_step_is_begun(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rig.engine._pace, "room", lambda _site, name: 16 if name is SETUP else 1)
    ids = [rig.add() for _ in range(4)]
    rig.duties.dispatch()
    rig.sent.take_chains()
    backend: Any = rig.app.runtime.site("alpha").backend
    submit, sent = backend.submit, []

    def looking(spec: Any) -> Any:
        sent.append(sorted(step.experiment_id for step in rig.sent.chains))
        return submit(spec)

    monkeypatch.setattr(backend, "submit", looking)
    rig.engine.work(ids[0], SETUP, MINE)
    assert sent == [sorted(ids[1:])]


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


def test_urgent_work_that_came_while_company_was_claimed_goes_first(
    quick: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_BELIEVED_S", 0.0)
    ids = [quick.add() for _ in range(3)]
    quick.duties.dispatch()
    batches = quick.world.store.batches
    claim_like = batches.claim_like

    def claiming(*args: Any) -> Any:
        claims = claim_like(*args)
        quick.add(priority="urgent")
        return claims

    monkeypatch.setattr(batches, "claim_like", claiming)
    quick.engine.work(ids[0], SETUP, MINE)
    assert quick.calls("prepare") == 0
    assert {quick.world.step(one, SETUP).state for one in ids} == {StepState.READY}


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


def test_nothing_is_learnt_from_steps_that_did_no_work(rig: Rig) -> None:
    ids = [rig.add() for _ in range(3)]
    rig.pause()
    rig.duties.dispatch()
    for one in ids:
        rig.engine.work(one, SETUP, MINE)
    assert rig.engine._pace.room("alpha", SETUP) == 1
    assert rig.engine._pace._took_s == {}


def test_nothing_less_urgent_is_begun_after_an_urgent_one_is_ready(
    quick: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_BELIEVED_S", 0.0)
    ids = [quick.add() for _ in range(6)]
    urgent: list[str] = []
    at(quick, monkeypatch, 2, lambda: urgent.append(quick.add(priority="urgent")))
    quick.duties.dispatch()
    quick.sent.take_chains()
    quick.engine.work(ids[0], SETUP, MINE)
    assert quick.calls("prepare") == 2
    states = Counter(quick.world.step(one, SETUP).state for one in ids)
    assert states == {StepState.DONE: 2, StepState.READY: 4}
    assert quick.calls("submit") == 0  # nor does one carry on
    left = next(one for one in ids if quick.world.step(one, SETUP).state is StepState.READY)
    quick.engine.work(left, SETUP, MINE)
    [first, *_] = [token for name, token in quick.fake.calls if name == "submit"]
    assert first == f"wlm-{urgent[0].removeprefix('exp-')}-1"


def test_a_round_that_goes_slower_than_expected_ends(
    quick: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_ROUND_S", 0.0)
    ids = [quick.add() for _ in range(4)]
    quick.duties.dispatch()
    quick.engine.work(ids[0], SETUP, MINE)
    assert quick.calls("prepare") == 1
    assert Counter(quick.world.step(one, SETUP).state for one in ids) == {
        StepState.DONE: 1, StepState.READY: 3,
    }  # fmt: skip


def test_a_process_that_is_to_stop_begins_no_more(
    quick: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [quick.add() for _ in range(4)]
    at(quick, monkeypatch, 2, quick.app.runtime.stopping.set)
    quick.duties.dispatch()
    quick.engine.work(ids[0], SETUP, MINE)
    assert quick.calls("prepare") == 2


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


def test_each_step_by_message_goes_side_by_side_too(
    quick: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    object.__setattr__(quick.app.settings.steps, "carry_on", False)
    ids = [quick.add() for _ in range(6)]
    quick.duties.dispatch()
    quick.sent.take_chains()
    done = quick.engine.work(ids[0], SETUP, MINE)
    others = quick.sent.take_chains()
    assert Counter(step.segment for step in others) == {(SUBMIT,): 5}
    assert isinstance(done, engine.HandOn)
    assert done.own
    assert done.following is not None
    assert done.following.experiment_id == ids[0]
    assert quick.calls("submit") == 0
    for step in (done.following, *others):
        quick.engine.work(step.experiment_id, step.segment[0], holder(f"m{step.experiment_id}"))
    assert quick.calls("submit") == 6
    assert starts(quick, SUBMIT) == dict.fromkeys(ids, 1)


def test_what_a_site_takes_together_is_not_claimed_twice_over(quick: Rig) -> None:
    quick.fake.batch = 100
    _sweep, ids = quick.world.add_sweep(6, staging=False)
    quick.work()
    quick.work()
    assert quick.calls("submit_many") >= 1
    assert starts(quick, SUBMIT) == dict.fromkeys(ids, 1)
    quick.poll()
    assert {quick.world.state(one) for one in ids} == {ExperimentState.DONE}
