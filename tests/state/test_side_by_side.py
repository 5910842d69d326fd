"""Short steps that one slot takes their way side by side."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from state.rig import Rig, at
from state.world import SETUP, SUBMIT, holder

from services.processes import wait_for
from wlm_tasks.model.states import ExperimentState, StepState
from wlm_tasks.model.steps import StepName
from wlm_tasks.tasks import batch, engine

MINE = holder("mine")


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


def test_what_does_not_carry_on_is_sent_before_the_next_step_is_begun(
    quick: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quick.engine._pace, "room", lambda _site, name: 16 if name is SETUP else 1)
    ids = [quick.add() for _ in range(4)]
    quick.duties.dispatch()
    quick.sent.take_chains()
    backend: Any = quick.app.runtime.site("alpha").backend
    submit, sent = backend.submit, []

    def looking(spec: Any) -> Any:
        sent.append(sorted(step.experiment_id for step in quick.sent.chains))
        return submit(spec)

    monkeypatch.setattr(backend, "submit", looking)
    quick.engine.work(ids[0], SETUP, MINE)
    assert sent == [sorted(ids[1:])]


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
