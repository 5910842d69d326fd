"""Short steps that one slot claims together and takes the rest of their way side by side."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError
from state.rig import Rig
from state.world import SETUP, STAGE_IN, SUBMIT, World, holder

from services.processes import wait_for
from wlm_tasks.errors import FencedError, JobRejectedError, ServiceError, SiteUnreachableError
from wlm_tasks.model.states import ExperimentState, StepState
from wlm_tasks.model.steps import StepName
from wlm_tasks.state.accepted import Accepted, Way
from wlm_tasks.state.claims import Ending
from wlm_tasks.state.holders import Claim
from wlm_tasks.state.intents import FirstJob, job_token
from wlm_tasks.tasks import batch, engine

MINE = holder("mine")


def waiting(world: World, count: int, **fields: Any) -> list[str]:
    return sorted(world.add(**fields) for _ in range(count))


def like(world: World, claim: Claim, most: int = 16, site: str = "alpha") -> list[str]:
    return [c.experiment_id for c in world.store.batches.claim_like(claim, MINE, site, most)]


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
    held = world.add_sweep(2, max_active=1)[1]
    assert like(world, lead) == [held[0]]
    for one in (later, crashed, sliced, elsewhere, less_urgent, held[1]):
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


# -- the engine --------------------------------------------------------------------------------


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


def test_relief_that_fails_is_told_and_the_leases_do_the_rest(
    quick: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(batch, "_PATIENCE_S", 0.1)
    ids = [quick.add() for _ in range(3)]
    tried = threading.Event()

    def let_go(*_args: Any) -> None:
        tried.set()
        raise RuntimeError("odd")

    monkeypatch.setattr(quick.world.store.batches, "let_go", let_go)
    at(quick, monkeypatch, 1, lambda: tried.wait(10))
    quick.duties.dispatch()
    quick.engine.work(ids[0], SETUP, MINE)
    wait_for(lambda: "not given back" in caplog.text, 10, "the fault in the log")
    quick.world.sql("UPDATE steps SET lease_until = 0 WHERE state = 'RUNNING'")
    assert quick.world.store.upkeep.expire_leases(3) == 2
    quick.work()
    quick.poll()
    assert {quick.world.state(one) for one in ids} == {ExperimentState.DONE}
    assert quick.calls("submit") == 3


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
    ids = sorted(quick.add() for _ in range(4))
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
    fresh = quick.add()
    claim = quick.world.claim(ready[0])
    assert like(quick.world, claim) == [fresh]
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
