"""What becomes of the work of a worker that disappears."""

from __future__ import annotations

from typing import Any

import pytest
from state.test_roster import NAME, registration
from state.world import SETUP, STAGE_IN, World, holder

from wlm_tasks.model.notices import Notice, NoticeKind
from wlm_tasks.model.states import ExperimentState, StepState
from wlm_tasks.model.workers import Change, Outcome, WorkerState
from wlm_tasks.state.disappearances import WORKER_EVENT, Decided
from wlm_tasks.state.roster import Present

DOWN = Change(state=WorkerState.DOWN, outcome=Outcome.DISAPPEARED, reason="silent for 31 s")
POISON_AFTER = 3


@pytest.fixture(autouse=True)
def _registered(world: World) -> None:
    world.store.roster.register(registration())


def present(world: World, incarnation: str = "a1") -> Present:
    return next(one for one in world.store.roster.present() if one.incarnation == incarnation)


def apply(world: World, change: Change = DOWN, **more: Any) -> bool:
    decided = Decided(worker=present(world), change=change, detail={"reason": "r"}, **more)
    return world.store.disappearances.apply(decided, ["smtp"], poison_after=POISON_AFTER)


def told(world: World) -> list[Notice]:
    return [one.notice for one in world.store.deliveries.waiting("smtp", 100)]


def test_its_steps_are_ready_at_once(world: World) -> None:
    id_ = world.add()
    world.claim(id_, worker=NAME)
    assert apply(world)
    step = world.step(id_, SETUP)
    assert (step.state, step.reason) == (StepState.READY, f"its worker {NAME} is down")
    assert step.sent_at is None  # control sends it now
    (notice,) = told(world)
    assert notice.kind is NoticeKind.WORKER_DOWN
    assert notice.detail["steps"] == [
        {"experiment": id_, "name": "melt", "step": "setup", "became": "released"}
    ]
    assert (None, WORKER_EVENT) in world.log(id_)
    events = world.store.coordination.unpublished(100)
    assert WORKER_EVENT not in {event.state for event in events}


def test_what_it_writes_afterwards_is_refused(world: World) -> None:
    id_ = world.add()
    claim = world.claim(id_, worker=NAME)
    apply(world)
    world.store.claims.renew([claim], 60.0)
    assert claim.lost.is_set()


def test_a_step_that_loses_too_many_workers_is_poison(world: World) -> None:
    id_ = world.add()
    world.claim(id_, worker=NAME)
    world.sql("UPDATE steps SET crashes = :n WHERE state = 'RUNNING'", n=POISON_AFTER - 1)
    apply(world)
    assert world.state(id_) is ExperimentState.FAILED
    assert told(world)[0].detail["steps"][0]["became"].startswith("failed")


def test_steps_of_others_are_not_touched(world: World) -> None:
    id_ = world.add()
    world.claim(id_, worker="other@host")
    apply(world)
    assert world.step(id_, SETUP).state is StepState.RUNNING
    assert "steps" not in told(world)[0].detail or told(world)[0].detail["steps"] == []


def test_what_the_broker_gave_to_another_is_told(world: World) -> None:
    id_ = world.add()
    world.claim(id_, message="m", worker=NAME)
    again = holder("m", worker="other@host", redelivered=True)
    world.store.claims.claim(id_, SETUP, again)
    apply(world)
    (step,) = told(world)[0].detail["steps"]
    assert (step["experiment"], step["became"]) == (id_, "taken over by other@host")
    assert world.step(id_, SETUP).state is StepState.RUNNING
    assert (None, WORKER_EVENT) in world.log(id_)


def test_what_it_ended_well_is_not_told(world: World) -> None:
    id_ = world.add()
    claim = world.claim(id_, worker=NAME)
    world.store.claims.finish(claim, carry_on=None)
    world.claim(id_, STAGE_IN, worker="other@host")
    apply(world)
    assert told(world)[0].detail["steps"] == []


def test_the_work_of_its_successor_is_left_alone(world: World) -> None:
    world.store.roster.register(registration("a2"))
    id_ = world.add()
    world.claim(id_, worker=NAME)
    apply(world)
    assert world.step(id_, SETUP).state is StepState.RUNNING


def test_more_steps_than_a_notice_names(world: World) -> None:
    for number in range(25):
        world.claim(world.add(), message=f"m{number}", worker=NAME)
    apply(world)
    detail = told(world)[0].detail
    assert (len(detail["steps"]), detail["more_steps"]) == (20, 5)


def test_who_decides_later_changes_nothing(world: World) -> None:
    before = present(world)
    assert apply(world)
    decided = Decided(worker=before, change=DOWN, detail={})
    assert not world.store.disappearances.apply(decided, ["smtp"], poison_after=POISON_AFTER)
    assert len(told(world)) == 1


def test_one_that_is_told_with_others_has_an_incident_and_no_notice(world: World) -> None:
    apply(world, told=False)
    (incident,) = world.store.incidents.now_open()
    assert (incident.subject, incident.told) == (NAME, False)
    assert told(world) == []


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        (Outcome.RESTARTED, NoticeKind.WORKER_RESTARTED),
        (Outcome.LEFT_UNASKED, NoticeKind.WORKER_LEFT),
    ],
)
def test_lesser_matters_are_told_without_an_incident(
    world: World, outcome: Outcome, kind: NoticeKind
) -> None:
    apply(world, Change(state=WorkerState.LEFT, outcome=outcome, reason="r"))
    assert [notice.kind for notice in told(world)] == [kind]
    assert world.store.incidents.now_open() == []


def test_a_planned_end_is_told_to_nobody(world: World) -> None:
    apply(world, Change(state=WorkerState.LEFT, reason="it was to stop"))
    assert told(world) == []
