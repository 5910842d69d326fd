"""Which notices go out now, and which together."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wlm_tasks.model.notices import SEVERITY, NoticeKind
from wlm_tasks.notify.pacing import Pace, Plan, Waiting, plan

PACE = Pace()
K = NoticeKind


def waiting(
    key: str, since: float, kind: NoticeKind = K.WORKER_DOWN, ends: str | None = None
) -> Waiting:
    return Waiting(key=key, kind=kind, severity=SEVERITY[kind], since=since, ends=ends)


class Played:
    """Time that passes: notices come, whoever sends looks when something comes and when told to."""

    def __init__(self, come: list[Waiting], *, told_recent: bool = True) -> None:
        self.sent: list[tuple[float, tuple[str, ...]]] = []
        self._come = sorted(come, key=lambda one: one.since)
        self._there: dict[str, Waiting] = {}
        self._told_recent = told_recent

    def run(self) -> list[tuple[float, tuple[str, ...]]]:
        now, look_at = 0.0, None
        while self._come or self._there:
            nexts = [self._come[0].since] if self._come else []
            nexts += [look_at] if look_at is not None else []
            assert nexts, "what waits is never looked at again"
            now = max(now, min(nexts))
            while self._come and self._come[0].since <= now:
                one = self._come.pop(0)
                self._there[one.key] = one
            look_at = self._look(now).look_at
            assert look_at is None or look_at > now
        return self.sent

    def _look(self, now: float) -> Plan:
        recent = [at for at, keys in self.sent if len(keys) == 1] if self._told_recent else []
        made = plan(self._there.values(), now, PACE, recent)
        for batch in made.batches:
            for key in batch:
                del self._there[key]  # fails for what is sent twice
            self.sent.append((now, batch))
        return made


def test_nothing_waits() -> None:
    assert plan([], 0.0, PACE) == Plan((), None)


def test_a_lone_critical_one_waits_for_others_a_moment() -> None:
    one = waiting("down:1", 100.0)
    assert plan([one], 100.0, PACE) == Plan((), 105.0)
    assert plan([one], 105.0, PACE) == Plan((("down:1",),), None)


def test_a_few_go_one_by_one() -> None:
    come = [waiting("a", 0.0), waiting("b", 1.0), waiting("c", 2.0)]
    assert Played(come).run() == [(5.0, ("a",)), (6.0, ("b",)), (7.0, ("c",))]


def test_what_waited_while_nothing_could_be_sent_is_one_digest() -> None:
    come = [waiting(str(i), i * 1000.0) for i in range(6)]
    assert plan(come, 9000.0, PACE).batches == (("0", "1", "2", "3", "4", "5"),)


@pytest.mark.parametrize("seed", range(5))
def test_300_in_a_minute_are_one_digest(seed: int) -> None:
    chance = random.Random(seed)
    come = [waiting(f"down:{i}", chance.uniform(0.0, 60.0)) for i in range(300)]
    ((at, keys),) = Played(come).run()
    assert len(keys) == 300
    assert max(one.since for one in come) + 15.0 == pytest.approx(at)


def test_a_storm_without_end_is_told_of_every_two_minutes() -> None:
    come = [waiting(f"{i:04}", i / 2) for i in range(1200)]
    sent = Played(come).run()
    assert len(sent) <= 6
    assert sent[0][0] == 120.0


def test_many_single_ones_are_collected() -> None:
    """A worker every two seconds is no storm, and 300 mails in ten minutes are too many."""
    come = [waiting(f"{i:04}", 2.0 * i) for i in range(300)]
    sent = Played(come).run()
    assert len(sent) < 60
    assert sent[:10] == [(2.0 * i + 5.0, (f"{i:04}",)) for i in range(10)]
    assert max(len(keys) for _at, keys in sent) > 30


def test_what_is_not_urgent_is_collected() -> None:
    come = [waiting("left:1", 0.0, K.WORKER_LEFT), waiting("end:1", 500.0, K.EXPERIMENT_ENDED)]
    assert Played(come).run() == [(600.0, ("left:1", "end:1"))]


def test_what_is_back_is_told_soon() -> None:
    come = [waiting("left:1", 0.0, K.WORKER_LEFT), waiting("up:1", 1.0, K.WORKER_BACK)]
    assert Played(come).run() == [(31.0, ("up:1",)), (600.0, ("left:1",))]


def test_many_that_are_back_are_one_digest() -> None:
    come = [waiting(f"up:{i:03}", 100 + i / 5, K.WORKER_BACK) for i in range(300)]
    assert [len(keys) for _at, keys in Played(come).run()] == [300]


def test_a_test_goes_at_once() -> None:
    assert Played([waiting("test:1", 3.0, K.TEST)]).run() == [(3.0, ("test:1",))]


def test_an_end_is_never_told_before_its_beginning() -> None:
    """Both in one message if the beginning still waits."""
    down, up = waiting("down:1", 0.0), waiting("up:1", 3.0, K.WORKER_BACK, "down:1")
    assert Played([down, up]).run() == [(5.0, ("down:1", "up:1"))]
    stuck = waiting("stuck:1", 0.0, K.QUEUE_STUCK)
    served = waiting("served:1", 60.0, K.QUEUE_SERVED, "stuck:1")
    assert Played([stuck, served]).run() == [(600.0, ("stuck:1", "served:1"))]


def test_a_clock_that_was_set_back_keeps_nothing_waiting() -> None:
    assert plan([waiting("a", 1e6)], 100.0, PACE).batches == (("a",),)


KEYS = st.sampled_from([f"{i:02}" for i in range(30)])
NOTICES = st.builds(
    waiting,
    KEYS,
    st.floats(0.0, 400.0) | st.sampled_from([0.0, 1.0, 2.0, 3.0]),
    st.sampled_from(list(K)),
    st.none() | KEYS,
)
MANY = st.lists(NOTICES, max_size=30, unique_by=lambda one: one.key)


@settings(deadline=None)
@given(MANY, st.booleans())
def test_nothing_is_left_out_and_nothing_goes_twice(come: list[Waiting], recent: bool) -> None:
    sent = Played(list(come), told_recent=recent).run()
    keys = [key for _at, batch in sent for key in batch]
    assert sorted(keys) == sorted(one.key for one in come)
    since = {one.key: one.since for one in come}
    assert all(at - since[key] <= PACE.digest_s for at, batch in sent for key in batch)


@settings(deadline=None)
@given(MANY)
def test_critical_ones_wait_no_longer_than_a_storm(come: list[Waiting]) -> None:
    criticals = [one for one in come if SEVERITY[one.kind] == "CRITICAL" and one.ends is None]
    sent = {key: at for at, batch in Played(list(come)).run() for key in batch}
    assert all(sent[one.key] - one.since <= PACE.storm_s for one in criticals)


@settings(deadline=None)
@given(MANY)
def test_ends_do_not_overtake(come: list[Waiting]) -> None:
    by_key = {one.key: one for one in come}
    order = {key: n for n, (_, batch) in enumerate(Played(list(come)).run()) for key in batch}
    for one in come:
        ended = by_key.get(one.ends or "")
        if ended and ended.since < one.since:
            assert order[ended.key] <= order[one.key]


@settings(deadline=None)
@given(MANY, st.floats(0.0, 2000.0), st.randoms())
def test_the_order_of_what_waits_does_not_matter(
    come: list[Waiting], now: float, chance: random.Random
) -> None:
    shuffled = list(come)
    chance.shuffle(shuffled)
    assert plan(come, now, PACE) == plan(shuffled, now, PACE)
