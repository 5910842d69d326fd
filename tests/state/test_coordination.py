"""Leases, polls, the outbox, the clock."""

from __future__ import annotations

import time

from state.world import World

from wlm_tasks.model.states import JobRecord
from wlm_tasks.state.coordination import OutboxEvent


def test_a_lease_has_one_holder_until_it_runs_out(world: World) -> None:
    leases = world.store.coordination
    assert leases.acquire("sweep", "a", 30.0)
    assert not leases.acquire("sweep", "b", 30.0)
    assert leases.acquire("dispatch", "b", 30.0)
    assert leases.holders() == {"sweep": "a", "dispatch": "b"}
    world.sql("UPDATE leases SET expires_at = expires_at - 31 WHERE name = 'sweep'")
    assert leases.holders() == {"dispatch": "b"}
    assert leases.acquire("sweep", "b", 30.0)
    assert not leases.acquire("sweep", "a", 30.0)


def test_a_holder_keeps_its_lease(world: World) -> None:
    leases = world.store.coordination
    assert leases.acquire("sweep", "a", 30.0)
    world.sql("UPDATE leases SET expires_at = expires_at - 29")
    assert leases.acquire("sweep", "a", 30.0)
    world.sql("UPDATE leases SET expires_at = expires_at - 29")
    assert not leases.acquire("sweep", "b", 30.0)


def test_leases_given_up(world: World) -> None:
    leases = world.store.coordination
    for name in ("x", "y"):
        leases.acquire(name, "a", 30.0)
    leases.acquire("z", "b", 30.0)
    leases.release("a")
    assert leases.holders() == {"z": "b"}
    assert leases.acquire("x", "b", 30.0)


def test_changes_of_experiments_go_out_once_and_in_order(world: World) -> None:
    box = world.store.coordination
    experiment_id = world.add(key="k")
    world.store.claims.fail(world.claim(experiment_id), "broken")
    assert box.count_unpublished() == 3
    waiting = box.unpublished(10)
    assert [event.state for event in waiting] == ["QUEUED", "PREPARING", "FAILED"]
    assert [event.id for event in waiting] == sorted(event.id for event in waiting)
    last = waiting[-1]
    assert last == OutboxEvent(
        id=last.id, experiment_id=experiment_id, state="FAILED", at=last.at, key="k",
        sweep_id=None, detail={"reason": "broken"},
    )  # fmt: skip
    assert box.unpublished(2) == waiting[:2]
    box.mark_published([event.id for event in waiting[:2]])
    assert box.unpublished(10) == waiting[2:]
    box.mark_published([last.id])
    assert box.unpublished(10) == []
    assert box.count_unpublished() == 0
    assert len(world.store.views.events(experiment_id)) == 5  # the steps' are not published


def test_members_carry_their_sweep(world: World) -> None:
    sweep_id, _members = world.add_sweep(2)
    assert {event.sweep_id for event in world.store.coordination.unpublished(9)} == {sweep_id}


def test_a_rejected_submission_goes_out(world: World) -> None:
    world.store.coordination.reject_submission("k", "site: got 'x'")
    [event] = world.store.coordination.unpublished(10)
    assert (event.experiment_id, event.state) == (None, "REJECTED")
    assert event.detail == {"key": "k", "reason": "site: got 'x'"}


def test_every_end_goes_out(world: World) -> None:
    experiment_id, token = world.submitted()
    world.report(token, JobRecord.RUNNING)
    world.store.intake.cancel(experiment_id)
    world.store.jobs.cancelled(experiment_id, [token])
    states = [event.state for event in world.store.coordination.unpublished(20)]
    assert states == ["QUEUED", "PREPARING", "SUBMITTED", "RUNNING", "CANCELLING", "CANCELLED"]


def test_the_clock_is_the_databases_and_moves(world: World) -> None:
    first = world.store.coordination.clock()
    assert abs(first - time.time()) < 5  # all on one machine here
    assert abs(world.store.views.now() - first) < 5
    time.sleep(0.01)
    assert world.store.coordination.clock() > first
