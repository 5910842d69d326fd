"""One run per attempt on Aurora: submitters die, answers get lost, schedulers and agents go away.

Every payload notes its token in a ledger. At the end no token may be there twice, every
experiment must be DONE and its job in the ledger, and nothing may wait for a person.
"""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from campaign.aurora_world import AGAIN, POINTS, READ_S, AuroraWorld, Result, impatient

from services.aurora import PrivateAurora
from services.fixtures import MakeAurora
from services.processes import wait_for
from services.webfiles import WebFiles

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(1800)]


@pytest.fixture(params=["shared", "alone"])
def world(
    tmp_path: Path, aurora: PrivateAurora, web: WebFiles, monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Iterator[AuroraWorld]:  # fmt: skip
    """An installation, its agents with and without the workers' scratch directory."""
    impatient(monkeypatch)
    made = AuroraWorld(tmp_path, aurora, web=web if request.param == "alone" else None)
    yield made
    made.close()


@pytest.fixture
def rounds(long_campaign: bool) -> int:
    """How often each fault strikes."""
    return 50 if long_campaign else 3


def check(result: Result) -> None:
    assert (result.duplicates, result.lost, result.stuck) == (0, 0, 0), result


def test_submitters_killed_at_each_point(world: AuroraWorld, rounds: int) -> None:
    killed = {point: world.add(rounds) for point in world.points}
    for point, handles in killed.items():
        for one in handles:
            world.kill(one, POINTS[point])
    everything = [one for handles in killed.values() for one in handles]
    check(world.finish("a submitter killed at points 1 to 8", len(everything), everything))


def test_those_that_come_after_killed_too(world: AuroraWorld, rounds: int) -> None:
    """The first dies without an answer, the next while it finds out what became of the call."""
    faults, everything = 0, []
    world.scheduler.set(never_schedule=True)  # else some have claimed before the second looks
    for point, arm in AGAIN.items():
        for one in world.add(rounds):
            if "absent" in point:  # then the call must not have got there
                world.scheduler.set(lost_call={"createJob": 1})
            world.kill(one, POINTS["5 sent, no answer read"])
            wait_for(partial(_none_left, world), what="the call to be lost")
            world.kill(one, arm, again=True)
            faults += 2
            everything.append(one)
    world.scheduler.set(never_schedule=False)
    check(world.finish("a submitter killed, and the next at points 9, 10", faults, everything))


def _none_left(world: AuroraWorld) -> bool:
    return not world.scheduler.seen()["faults"]["lost_call"].get("createJob")


def test_submitters_killed_at_any_time(world: AuroraWorld, rounds: int) -> None:
    chance = random.Random(20261125)
    handles = world.add(2 * rounds)
    faults = sum(world.kill_after(one, chance.uniform(0, 0.05)) for one in handles)
    check(world.finish("a submitter killed at any time", faults, handles))


def test_answers_that_get_lost(world: AuroraWorld, rounds: int) -> None:
    """Calls cut off before or after they were done, broken, or answered with a code for later."""
    handles = world.add(4 * rounds)
    world.scheduler.set(
        lost_answer={"createJob": rounds, "getTasksWithoutConfigs": rounds},
        lost_call={"createJob": rounds, "getTasksWithoutConfigs": rounds},
        broken={"createJob": rounds},
        codes={"createJob": [6, 2] * (rounds // 2)},
    )
    result = world.finish("a call or its answer lost, HTTP 500, code 2 or 6", 6 * rounds, handles)
    check(result)
    left = world.scheduler.seen()["faults"]
    assert not any(sum(left[name].values()) for name in ("lost_answer", "lost_call", "broken"))
    assert not left["codes"]["createJob"]


def test_sent_on_by_a_scheduler_that_does_not_lead(
    tmp_path: Path, make_aurora: MakeAurora, aurora: PrivateAurora, monkeypatch: pytest.MonkeyPatch,
    rounds: int,
) -> None:  # fmt: skip
    impatient(monkeypatch)
    standby = make_aurora()
    standby.set(redirect_to=aurora.url)
    world = AuroraWorld(tmp_path, aurora, standby)
    handles = world.add(rounds)
    for one in handles:
        world.kill(one, POINTS["6 answered, not noted"])
    result = world.finish("a submitter killed, each call sent on", rounds, handles)
    world.close()
    check(result)
    assert standby.calls("createJob") == rounds


def test_a_scheduler_that_goes_away(world: AuroraWorld, rounds: int) -> None:
    """No leader for a while, or stopped for longer than anybody waits for an answer."""
    chance = random.Random(20261126)
    handles = world.add(5)

    def disturb() -> int:
        for number in range(rounds):
            if number % 2:
                world.scheduler.set(no_leader=True)
                handles.extend(world.add(2))
                time.sleep(chance.uniform(0.2, 0.6))
                world.scheduler.set(no_leader=False)
            else:
                world.scheduler.process.send(signal.SIGSTOP)
                handles.extend(world.add(2))
                time.sleep(chance.uniform(0.5, 1.5) * READ_S)
                world.scheduler.process.send(signal.SIGCONT)
            time.sleep(chance.uniform(0.1, 0.4))
        return rounds

    check(world.finish("no leader, or a scheduler stopped", 0, handles, disturb))


def test_a_scheduler_killed_that_forgets_everything(
    tmp_path: Path, make_aurora: MakeAurora, monkeypatch: pytest.MonkeyPatch, rounds: int
) -> None:
    """Worse than a real one, which keeps its tasks: what waited is gone, what runs goes on."""
    impatient(monkeypatch)
    chance = random.Random(20261127)
    scheduler = make_aurora()
    world = AuroraWorld(tmp_path, scheduler)
    handles = world.add(5, jobs=100, pause_s=0.3)

    def disturb() -> int:
        for _ in range(rounds):
            handles.extend(world.add(3, jobs=100, pause_s=0.3))
            time.sleep(chance.uniform(0.2, 0.8))
            scheduler.process.kill9()
            scheduler.start()
            scheduler.set(execute=True)
        return rounds

    result = world.finish("a scheduler killed, its memory lost", 0, handles, disturb)
    world.close()
    check(result)


def test_agents_that_get_lost(world: AuroraWorld, rounds: int) -> None:
    """Before the claim, with the payload, or while that goes on; the task is started again."""
    chance = random.Random(20261128)
    handles = world.add(3, jobs=20, pause_s=0.2)
    world.scheduler.set(step_s=0.01)

    def disturb() -> int:
        for number in range(rounds):
            name = ("lost_starting", "lost_running", "preempt")[number % 3]
            world.scheduler.set(
                **{name: 1},
                lost_after_s=chance.uniform(0.0, 0.3),
                partitioned=bool(chance.getrandbits(1)),
            )
            handles.extend(world.add(2, jobs=20, pause_s=0.5))
            wait_for(partial(_struck, world, name), 20, name)
        return rounds

    check(world.finish("an agent lost, a task preempted", 0, handles, disturb))


def _struck(world: AuroraWorld, name: str) -> bool:
    return bool(world.scheduler.seen()["faults"][name] == 0)
