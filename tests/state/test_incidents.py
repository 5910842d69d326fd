"""Incidents and deliveries: each is opened once and told once, whoever is killed meanwhile."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from state.world import World

from wlm_tasks.model.notices import Notice, NoticeKind
from wlm_tasks.state.deliveries import Batch, Deliveries
from wlm_tasks.state.incidents import WORKER, Incidents
from wlm_tasks.state.store import Store

NAME = "stage1@node7"
DOWN, BACK = NoticeKind.WORKER_DOWN, NoticeKind.WORKER_BACK


@pytest.fixture
def incidents(world: World) -> Incidents:
    return world.store.incidents


@pytest.fixture
def deliveries(world: World) -> Deliveries:
    return world.store.deliveries


def opened(incidents: Incidents, name: str = NAME, *notifiers: str) -> bool:
    return incidents.open(WORKER, name, DOWN, {"reason": "silent"}, notifiers or ("smtp",))


def closed(incidents: Incidents, name: str = NAME) -> bool:
    return incidents.close(WORKER, name, BACK, {}, ("smtp",))


def kinds(deliveries: Deliveries, notifier: str = "smtp") -> list[NoticeKind]:
    return [one.notice.kind for one in deliveries.waiting(notifier, 100)]


def test_one_incident_whoever_finds_it_out(url: str, world: World) -> None:
    stores = [Store(url) for _ in range(4)]
    done: list[bool] = []
    threads = [
        threading.Thread(target=lambda one=one: done.append(opened(one.incidents)))
        for one in stores
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in stores:
        one.close()
    assert sorted(done) == [False, False, False, True]
    assert kinds(world.store.deliveries) == [DOWN]


def test_the_end_refers_to_the_begin(incidents: Incidents, deliveries: Deliveries) -> None:
    assert opened(incidents)
    assert closed(incidents)
    assert not closed(incidents)
    first, last = (one.notice for one in deliveries.waiting("smtp", 10))
    assert (last.kind, last.ends) == (BACK, first.key)
    assert last.detail["down_s"] >= 0.0
    assert incidents.now_open() == []


def test_the_next_one_is_another(incidents: Incidents, deliveries: Deliveries) -> None:
    for _ in range(2):
        assert opened(incidents)
        assert closed(incidents)
    keys = [one.notice.key for one in deliveries.waiting("smtp", 10)]
    assert len(set(keys)) == 4


def test_an_end_without_words(incidents: Incidents, deliveries: Deliveries) -> None:
    opened(incidents)
    assert incidents.close(WORKER, NAME, None, {}, ("smtp",))
    assert kinds(deliveries) == [DOWN]


def test_one_that_flaps_is_told_once_an_hour(
    incidents: Incidents, deliveries: Deliveries, world: World
) -> None:
    for _ in range(6):
        opened(incidents)
        closed(incidents)
    found = kinds(deliveries)
    assert found.count(DOWN) == 3
    assert found.count(BACK) == 3
    assert found.count(NoticeKind.WORKER_FLAPPING) == 1
    world.sql("UPDATE incidents SET opened_at = opened_at - 4000")
    opened(incidents)
    assert kinds(deliveries).count(DOWN) == 4


def test_what_was_not_told_can_be_told_late(
    incidents: Incidents, deliveries: Deliveries, world: World
) -> None:
    for _ in range(3):
        opened(incidents)
        closed(incidents)
    opened(incidents)
    (incident,) = incidents.now_open()
    assert not incident.told
    before = kinds(deliveries).count(DOWN)
    assert incidents.tell_late(incident, DOWN, {}, ("smtp",))
    assert not incidents.tell_late(incident, DOWN, {}, ("smtp",))
    assert kinds(deliveries).count(DOWN) == before + 1
    assert closed(incidents)
    assert kinds(deliveries).count(BACK) == 4


def test_a_key_is_told_once(incidents: Incidents, deliveries: Deliveries) -> None:
    notice = Notice(key="experiment:e:1", kind=NoticeKind.EXPERIMENT_ENDED, subject="e", at=1.0)
    assert incidents.tell(notice, ("smtp", "log"))
    assert not incidents.tell(notice, ("smtp", "log"))
    assert kinds(deliveries, "log") == kinds(deliveries) == [NoticeKind.EXPERIMENT_ENDED]


def test_somebody_looks_after_it(incidents: Incidents) -> None:
    opened(incidents)
    (incident,) = incidents.now_open()
    assert incidents.acknowledge(incident.id, "ada")
    assert not incidents.acknowledge(incident.id, "bob")
    assert not incidents.acknowledge(4711, "bob")
    assert incidents.latest(10)[0].acked_by == "ada"


# -- deliveries -----------------------------------------------------------------------------


def bound(incidents: Incidents, deliveries: Deliveries, *names: str) -> None:
    for name in names:
        opened(incidents, name)
    ids = [one.id for one in deliveries.waiting("smtp", 100)]
    deliveries.bind("smtp", ids, f"batch of {len(names)}")


def claimed(deliveries: Deliveries, hold_s: float = 60.0) -> Batch | None:
    return deliveries.claim("smtp", hold_s=hold_s)


def test_nothing_waits(deliveries: Deliveries) -> None:
    assert not deliveries.any_open("smtp")
    assert claimed(deliveries) is None
    assert deliveries.oldest_s() is None


def test_what_is_bound_together_goes_together(incidents: Incidents, deliveries: Deliveries) -> None:
    bound(incidents, deliveries, "a@h", "b@h")
    opened(incidents, "late@h")
    batch = claimed(deliveries)
    assert batch is not None
    assert sorted(one.subject for one in batch.notices) == ["a@h", "b@h"]
    assert claimed(deliveries) is None
    deliveries.sent(batch)
    assert [one.notice.subject for one in deliveries.waiting("smtp", 9)] == ["late@h"]
    assert (deliveries.oldest_s() or 99.0) < 60.0


def test_bound_once(incidents: Incidents, deliveries: Deliveries) -> None:
    bound(incidents, deliveries, "a@h")
    batch = claimed(deliveries)
    assert batch is not None
    ids = [1, 2, 3]
    deliveries.bind("smtp", ids, "another")
    deliveries.put_off(batch, "away", pause_s=0.0)
    again = claimed(deliveries)
    assert again is not None
    assert again.id == batch.id


def test_a_batch_of_one_who_was_killed_goes_again_as_it_was(
    incidents: Incidents, deliveries: Deliveries
) -> None:
    bound(incidents, deliveries, "a@h", "b@h")
    first = claimed(deliveries, hold_s=-1.0)  # its time is over at once
    again = claimed(deliveries)
    assert first is not None
    assert again is not None
    assert (again.id, again.notices) == (first.id, first.notices)
    assert (first.tries, again.tries) == (1, 2)


def test_each_is_claimed_by_one(url: str, world: World) -> None:
    for number in range(8):
        opened(world.store.incidents, f"w{number}@h")
    for one in world.store.deliveries.waiting("smtp", 100):
        world.store.deliveries.bind("smtp", [one.id], f"batch {one.id}")
    stores = [Store(url) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        found = [id_ for ids in pool.map(_sent_by, stores) for id_ in ids]
    for store in stores:
        store.close()
    assert len(found) == len(set(found)) == 8
    assert not world.store.deliveries.any_open("smtp")


def _sent_by(store: Store) -> list[str]:
    found = []
    for _ in range(40):
        if (batch := claimed(store.deliveries)) is not None:
            found.append(batch.id)
            store.deliveries.sent(batch)
    return found


def test_put_off_and_tried_again_at_a_word(incidents: Incidents, deliveries: Deliveries) -> None:
    bound(incidents, deliveries, "a@h")
    batch = claimed(deliveries)
    assert batch is not None
    deliveries.put_off(batch, "connection refused", pause_s=600.0)
    assert claimed(deliveries) is None
    (view,) = deliveries.views(10)
    assert (view.error, view.sent_at) == ("connection refused", None)
    assert deliveries.try_now() == 1
    assert claimed(deliveries) is not None


def test_held_on_to(incidents: Incidents, deliveries: Deliveries) -> None:
    bound(incidents, deliveries, "a@h")
    batch = claimed(deliveries, hold_s=-1.0)
    assert batch is not None
    deliveries.hold(batch, 60.0)
    assert claimed(deliveries) is None


def test_refused_for_good(incidents: Incidents, deliveries: Deliveries) -> None:
    bound(incidents, deliveries, "a@h")
    batch = claimed(deliveries)
    assert batch is not None
    deliveries.refused(batch, "550 no such user")
    assert not deliveries.any_open("smtp")
    assert deliveries.views(10)[0].refused_at is not None


def test_each_way_by_itself(incidents: Incidents, deliveries: Deliveries) -> None:
    opened(incidents, NAME, "smtp", "webhook")
    deliveries.bind("smtp", [one.id for one in deliveries.waiting("smtp", 9)], "b")
    batch = claimed(deliveries)
    assert batch is not None
    deliveries.sent(batch)
    assert not deliveries.any_open("smtp")
    assert kinds(deliveries, "webhook") == [DOWN]


def test_what_is_over_is_forgotten_in_the_end(
    incidents: Incidents, deliveries: Deliveries, world: World
) -> None:
    bound(incidents, deliveries, "a@h")
    batch = claimed(deliveries)
    assert batch is not None
    deliveries.sent(batch)
    incidents.close(WORKER, "a@h", None, {}, ())
    opened(incidents, "b@h")  # which is open, and waits to be told
    world.sql("UPDATE notices SET at = at - 1000")
    world.sql("UPDATE incidents SET closed_at = closed_at - 1000")
    assert deliveries.forget(2000.0) == 0
    assert deliveries.forget(500.0) == 1
    assert [view.notice.subject for view in deliveries.views(10)] == ["b@h"]
    assert [incident.subject for incident in incidents.latest(10)] == ["b@h"]
