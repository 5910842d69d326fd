"""How control has jobs ended: asked for often at first, and never held by a grace."""

from __future__ import annotations

import time
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import pytest

from wlm_tasks.celery import WlmCelery
from wlm_tasks.control import duties as module
from wlm_tasks.control.duties import CANCEL_AGAIN_S, Duties
from wlm_tasks.errors import ServiceError


class World:
    """Rows, broker and sites in memory."""

    def __init__(self) -> None:
        self.waiting = ["exp-a"]
        self.noted: dict[str, float] = {}
        self.tried: list[str] = []
        self.ended: list[tuple[str, float]] = []
        self.broker = True
        self.takes_s = 0.0
        self.clock = 1000.0
        upkeep = SimpleNamespace(to_cancel=self.to_cancel, cancel_sent=self.note)
        runtime = SimpleNamespace(store=SimpleNamespace(upkeep=upkeep))
        self.duties = Duties(cast(WlmCelery, SimpleNamespace(runtime=runtime)))

    def to_cancel(self, again_after_s: float, limit: int) -> list[str]:
        before = self.clock - again_after_s
        return [id_ for id_ in self.waiting if self.noted.get(id_, 0.0) <= before][:limit]

    def note(self, ids: list[str]) -> None:
        self.noted |= dict.fromkeys(ids, self.clock)

    def send(self, _app: object, _task: str, args: list[str], _queue: str) -> None:
        self.tried += args
        if not self.broker:
            raise ServiceError("broker: gone")

    def end(self, _runtime: object, experiment_id: str, *, wait_s: float) -> bool:
        self.ended.append((experiment_id, wait_s))
        time.sleep(self.takes_s)
        return False


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(module, "send_system", world.send)
    monkeypatch.setattr(module, "cancel_jobs", world.end)
    return world


def test_without_a_broker_each_gets_a_moment(world: World) -> None:
    world.broker = False
    world.waiting = ["exp-a", "exp-b"]
    assert world.duties.cancel() == 2
    assert [id_ for id_, _wait_s in world.ended] == list(world.noted) == world.waiting
    assert all(wait_s < 0.5 for _id, wait_s in world.ended)
    assert world.tried == ["exp-a"]  # to try the broker costs time


def test_other_duties_do_not_wait_for_many(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_INLINE_S", 0.1)
    world.broker = False
    world.takes_s = 0.06
    world.waiting = [f"exp-{number}" for number in range(10)]
    assert world.duties.cancel() == 2
    assert list(world.noted) == world.waiting[:2]
    world.waiting = world.waiting[2:]
    assert world.duties.cancel() == 2


def test_a_warning_once_in_a_while(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.broker = False
    for number in range(5):
        world.waiting = [f"exp-{number}"]
        world.duties.cancel()
    assert len(caplog.records) == 1


@pytest.fixture
def clocked(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world whose time is a number."""
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: world.clock))
    return world


def test_the_pace(clocked: World) -> None:
    """Soon for a grace of seconds, later for what nobody confirms."""
    asked = []
    for _ in range(1200):
        asked += [clocked.clock] * clocked.duties.cancel()
        clocked.clock += 1
    pauses = [after - before for before, after in pairwise(asked)]
    assert pauses == sorted(pauses)
    assert set(pauses[:9]) == {CANCEL_AGAIN_S[0]}
    assert pauses[-1] == CANCEL_AGAIN_S[1]


def test_a_cancel_after_a_retry_is_a_new_one(clocked: World) -> None:
    for _ in range(1200):
        clocked.duties.cancel()
        clocked.clock += 1
    clocked.noted.clear()
    for _ in range(3):
        assert clocked.duties.cancel() == 1
        assert clocked.duties.cancel() == 0
        clocked.clock += CANCEL_AGAIN_S[0]


def test_what_is_over_is_forgotten(clocked: World) -> None:
    clocked.duties.cancel()
    clocked.clock += 3 * CANCEL_AGAIN_S[1]
    clocked.waiting = ["exp-b"]
    clocked.duties.cancel()
    cancels: Any = clocked.duties._cancels
    assert list(cancels.times) == ["exp-b"]
