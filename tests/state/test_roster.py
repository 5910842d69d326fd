"""The roster: who registers, who drains, who is away."""

from __future__ import annotations

import pytest
from state.world import World

from wlm_tasks.model.workers import WorkerState
from wlm_tasks.state.roster import Registration, Roster

NAME = "stage1@node7"


def registration(incarnation: str = "a1", name: str = NAME, **more: object) -> Registration:
    return Registration(
        name=name,
        incarnation=incarnation,
        host="node7",
        pid=4711,
        queues=("envsetup", "staging"),
        attributes={"slots": 4, **more},
    )


@pytest.fixture
def roster(world: World) -> Roster:
    return world.store.roster


def test_a_worker_that_begins_is_up(roster: Roster) -> None:
    roster.register(registration())
    (worker,) = roster.views()
    assert (worker.name, worker.state, worker.queues) == (
        NAME,
        WorkerState.UP,
        ["envsetup", "staging"],
    )
    assert worker.attributes["slots"] == 4
    (present,) = roster.present()
    assert present.heard_s < 5.0
    assert not present.draining


def test_registering_again_keeps_when_it_began(roster: Roster) -> None:
    roster.register(registration())
    (first,) = roster.views()
    roster.register(registration())
    (second,) = roster.views()
    assert second.registered_at == first.registered_at
    assert second.heard_at > first.heard_at


def test_a_sign_of_life(roster: Roster, world: World) -> None:
    roster.register(registration())
    world.sql("UPDATE workers SET heard_at = heard_at - 100")
    assert roster.present()[0].heard_s > 99.0
    assert roster.refresh(NAME, "a1", load=7) is False
    assert roster.present()[0].heard_s < 5.0
    assert roster.views()[0].load == 7


def test_one_whose_row_is_gone_is_told_so(roster: Roster) -> None:
    assert roster.refresh(NAME, "a1", load=0) is None


def test_stopping_and_ending(roster: Roster) -> None:
    roster.register(registration())
    roster.stopping(NAME, "a1", within_s=100.0)
    (present,) = roster.present()
    assert present.draining
    assert 90.0 < (present.deadline_s or 0.0) <= 100.0
    roster.gone(NAME, "a1", announced=True)
    assert roster.present() == []
    assert roster.views() == []
    (left,) = roster.views(left_s=60.0)
    assert (left.state, left.reason) == (WorkerState.LEFT, "it has ended")


def test_of_a_name_that_is_in_use_again_what_left_is_not_listed(roster: Roster) -> None:
    roster.register(registration("a1"))
    roster.gone(NAME, "a1", announced=True)
    roster.register(registration("a2"))
    assert [one.incarnation for one in roster.views(left_s=60.0)] == ["a2"]


def test_an_operator_drains_and_lets_go(roster: Roster) -> None:
    roster.register(registration())
    assert roster.drain(NAME, who="ada", within_s=None)
    assert not roster.drain(NAME, who="ada", within_s=None)
    assert roster.refresh(NAME, "a1", load=0) is True
    assert roster.undrain(NAME)
    assert roster.refresh(NAME, "a1", load=0) is False
    assert not roster.undrain(NAME)


def test_what_a_worker_announced_itself_no_operator_takes_back(roster: Roster) -> None:
    roster.register(registration())
    roster.stopping(NAME, "a1", within_s=60.0)
    assert not roster.undrain(NAME)


def test_absences_end(roster: Roster, world: World) -> None:
    roster.announce("node7", who="ada", for_s=60.0, reason="new disks")
    assert roster.absences()["node7"].reason == "new disks"
    roster.announce("node7", who="bob", for_s=60.0, reason=None)
    assert roster.absences()["node7"].who == "bob"
    world.sql("UPDATE absences SET until = until - 100")
    assert roster.absences() == {}
    assert not roster.end_absence("node7")
    roster.announce("node7", who="ada", for_s=60.0, reason=None)
    assert roster.end_absence("node7")
    assert roster.absences() == {}


def test_only_one_that_is_missing_is_taken_off(roster: Roster, world: World) -> None:
    roster.register(registration())
    assert not roster.forget_worker(NAME)
    world.sql("UPDATE workers SET state = 'DOWN'")
    assert roster.forget_worker(NAME)
    assert roster.views() == []


def test_one_that_was_missed_is_looked_for_a_while(roster: Roster, world: World) -> None:
    roster.register(registration())
    world.sql("UPDATE workers SET state = 'LEFT'")  # without a word of its own
    assert [one.state for one in roster.present()] == [WorkerState.LEFT]
    world.sql("UPDATE workers SET heard_at = heard_at - 1000")
    assert roster.present() == []


def test_who_left_long_ago_is_forgotten(roster: Roster, world: World) -> None:
    roster.register(registration("a1"))
    roster.register(registration("b1", name="other@node8"))
    roster.gone(NAME, "a1", announced=True)
    assert roster.forget(60.0) == 0
    world.sql("UPDATE workers SET since = since - 100")
    assert roster.forget(60.0) == 1
    assert [one.name for one in roster.views(left_s=1e6)] == ["other@node8"]
