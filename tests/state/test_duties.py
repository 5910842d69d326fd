"""The duties of control against the rows; the broker is a list."""

from __future__ import annotations

import pytest
from state.sent import Sent
from state.world import SETUP, STAGE_IN, SUBMIT, World, new

from wlm_tasks.celery import WlmCelery
from wlm_tasks.control.duties import BATCH, Duties
from wlm_tasks.errors import ServiceError
from wlm_tasks.model.states import ExperimentState, StepState
from wlm_tasks.state.intake import NewSweep, new_id


@pytest.fixture
def world(app: WlmCelery) -> World:
    return World(app.runtime.store)


@pytest.fixture
def duties(app: WlmCelery) -> Duties:
    return Duties(app)


def test_dispatch_sends_each_once(world: World, duties: Duties, sent: Sent) -> None:
    world.add_sweep(BATCH + 3)
    assert duties.dispatch() == BATCH + 3
    assert duties.dispatch() == 0
    assert len(sent.chains) == len({one.experiment_id for one in sent.chains}) == BATCH + 3
    assert {one.segment for one in sent.chains} == {(SETUP, STAGE_IN, SUBMIT)}


def test_the_sweeper_sends_again_what_is_gone_and_looks_twice(
    world: World, duties: Duties, sent: Sent
) -> None:
    lost, _fresh = world.add(), world.add()
    world.past("sent_at", 60, lost)
    assert duties.sweep() == 0
    assert duties.sweep() == 1
    assert [one.experiment_id for one in sent.chains] == [lost]
    assert duties.sweep() == duties.sweep() == 0


def _watched(world: World) -> str:
    experiment_id, _token = world.submitted()
    world.sql("UPDATE jobs SET site = 'local'")
    return experiment_id


def test_a_poll_that_ends_at_once_is_not_taken_for_one_under_way(
    world: World, duties: Duties, sent: Sent
) -> None:
    _watched(world)
    done = world.store.polls.done

    def quick(_task: str) -> None:
        done("local", None)

    sent.on_system = quick
    assert duties.poll() == 1
    assert duties.poll() == 0
    world.sql("UPDATE polls SET sent_at = sent_at - 5, done_at = done_at - 5")
    assert duties.poll() == 1
    assert sent.system == [("wlm.poll", ["local"])] * 2


def test_a_poll_that_could_not_be_sent_is_sent_soon(
    world: World, duties: Duties, sent: Sent
) -> None:
    _watched(world)

    def refuse(_task: str) -> None:
        raise ServiceError("broker: gone")

    sent.on_system = refuse
    with pytest.raises(ServiceError):
        duties.poll()
    sent.on_system = lambda _task: None
    world.sql("UPDATE polls SET sent_at = sent_at - 5, done_at = done_at - 5")
    assert duties.poll() == 1


def test_a_cancel_is_sent_once_in_a_while(world: World, duties: Duties, sent: Sent) -> None:
    experiment_id = _watched(world)
    world.store.intake.cancel(experiment_id)
    assert duties.cancel() == 1
    assert duties.cancel() == 0
    world.sql("UPDATE experiments SET cancel_sent_at = cancel_sent_at - 60")
    assert duties.cancel() == 1
    assert sent.system == [("wlm.cancel", [experiment_id])] * 2


def test_release_lets_go_and_sends(world: World, duties: Duties, sent: Sent) -> None:
    _sweep, ids = world.add_sweep(3, max_active=1)
    duties.dispatch()
    world.store.intake.cancel(ids[0])
    assert duties.release() == 2  # were held
    assert [one.experiment_id for one in sent.chains] == ids[:2]
    assert world.step(ids[1], SETUP).sent_at is not None


def test_a_failure_stops_the_rest_of_its_sweep(world: World, duties: Duties) -> None:
    members = [new() for _ in range(3)]
    sweep = NewSweep(id=new_id("swp"), name="s", fingerprint="f", size=3, stop_on_failure=True)
    world.store.intake.add_sweep(sweep, members)
    world.store.claims.fail(world.claim(members[0].id), "broken")
    duties.release()
    for member in members[1:]:
        view = world.store.views.experiment(member.id)
        assert view.state is ExperimentState.CANCELLED
        assert view.reason == "another member of the sweep failed"


def test_wake_and_expire(world: World, duties: Duties) -> None:
    world.into(StepState.BACKOFF)
    poisoned = world.into(StepState.RUNNING)
    assert duties.wake() == duties.expire() == 0
    world.sql("UPDATE steps SET due_at = 0, lease_until = 0, crashes = 2")
    assert duties.wake() == duties.expire() == 1
    assert world.state(poisoned) is ExperimentState.FAILED
