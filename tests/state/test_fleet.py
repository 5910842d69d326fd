"""Decisions about all workers at once, on rows and evidence."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from state.test_roster import registration
from state.world import World

from wlm_tasks.config import WatchSettings
from wlm_tasks.control.fleet import Fleet
from wlm_tasks.control.sights import Evidence
from wlm_tasks.control.witnesses import Heard
from wlm_tasks.model.notices import Notice, NoticeKind
from wlm_tasks.model.workers import WorkerState

SETTINGS = WatchSettings()
LONG_AGO = time.monotonic() - 10_000.0


class Watched:
    """Workers, what is heard of them, and time that passes."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.names: list[str] = []
        self.silent: set[str] = set()
        self.fleet = Fleet(world.store, SETTINGS, ["smtp"], poison_after=3)

    def add(self, *names: str, incarnation: str = "a1") -> None:
        for name in names:
            self.world.store.roster.register(registration(incarnation, name))
            self.names.append(name)

    def look(self, *silent: str) -> None:
        """Judge once; of those that are silent nobody has had anything for a minute."""
        now = time.monotonic()
        for name in silent:
            self.world.sql("UPDATE workers SET heard_at = heard_at - 60 WHERE name = :n", n=name)
        heard = {name: Heard(now, 4711, goodbye=False) for name in self.names if name not in silent}
        evidence = Evidence(
            now=now,
            patience_s=SETTINGS.patience_s,
            database_since=LONG_AGO,
            heartbeats_since=LONG_AGO,
            heard=heard,
        )
        # one that is silent is so for longer than anybody listens
        for name in silent:
            heard[name] = Heard(now - 60.0, 4711, goodbye=False)
        self.fleet.look(replace(evidence, heard=heard))

    def pass_s(self, seconds: float) -> None:
        """Let all workers stand as they do for longer."""
        self.world.sql("UPDATE workers SET since = since - :s", s=seconds)
        self.world.sql("UPDATE workers SET registered_at = registered_at - :s", s=seconds)
        self.world.sql("UPDATE incidents SET opened_at = opened_at - :s", s=seconds)

    def take_down(self, *names: str) -> None:
        self.look(*names)
        self.pass_s(SETTINGS.grace_s + 1)
        self.look(*names)

    def states(self) -> dict[str, WorkerState]:
        return {one.name: one.state for one in self.world.store.roster.views()}

    def told(self) -> list[Notice]:
        return [one.notice for one in self.world.store.deliveries.waiting("smtp", 100)]

    def kinds(self) -> list[NoticeKind]:
        return [notice.kind for notice in self.told()]


@pytest.fixture
def watched(world: World) -> Watched:
    made = Watched(world)
    made.add(*(f"w{number}@h" for number in range(6)))
    return made


def test_all_is_well(watched: Watched) -> None:
    watched.look()
    assert set(watched.states().values()) == {WorkerState.UP}
    assert watched.told() == []
    view = watched.world.store.roster.views()[0]
    assert view.witnesses == {"celery": "alive", "database": "alive"}


def test_one_that_disappears_is_told_once_and_its_return_once(watched: Watched) -> None:
    watched.take_down("w1@h")
    watched.look("w1@h")
    assert watched.states()["w1@h"] is WorkerState.DOWN
    (notice,) = watched.told()
    assert (notice.kind, notice.subject) == (NoticeKind.WORKER_DOWN, "w1@h")
    assert "no heartbeat" in notice.detail["witnesses"]["celery"]
    watched.world.store.roster.refresh("w1@h", "a1", load=0)
    watched.look()
    assert watched.states()["w1@h"] is WorkerState.RECOVERED
    assert watched.kinds() == [NoticeKind.WORKER_DOWN]
    watched.pass_s(SETTINGS.probation_s + 1)
    watched.look()
    assert watched.states()["w1@h"] is WorkerState.UP
    assert watched.kinds() == [NoticeKind.WORKER_DOWN, NoticeKind.WORKER_BACK]
    assert watched.told()[1].ends == watched.told()[0].key


def test_a_flap_within_the_grace_is_told_to_nobody(watched: Watched) -> None:
    watched.look("w1@h")
    assert watched.states()["w1@h"] is WorkerState.SUSPECT
    watched.world.store.roster.refresh("w1@h", "a1", load=0)
    watched.look()
    assert watched.states()["w1@h"] is WorkerState.UP
    assert watched.told() == []


def test_a_successor_ends_the_incident_when_it_has_stayed(watched: Watched) -> None:
    watched.take_down("w1@h")
    watched.add("w1@h", incarnation="a2")
    watched.look()
    assert watched.kinds() == [NoticeKind.WORKER_DOWN]
    watched.pass_s(SETTINGS.probation_s + 1)
    # the incident is older than its successor
    watched.world.sql("UPDATE incidents SET opened_at = opened_at - 10")
    watched.look()
    assert watched.kinds() == [NoticeKind.WORKER_DOWN, NoticeKind.WORKER_BACK]


def test_one_that_was_there_again_before_it_was_missed(watched: Watched) -> None:
    watched.add("w1@h", incarnation="a2")
    watched.look()
    assert watched.kinds() == [NoticeKind.WORKER_RESTARTED]
    assert watched.states()["w1@h"] is WorkerState.UP


def test_half_of_them_gone_is_one_matter(watched: Watched) -> None:
    gone = ["w0@h", "w1@h", "w2@h"]
    watched.take_down(*gone)
    assert watched.kinds() == [NoticeKind.FLEET_DOWN]
    assert sorted(watched.told()[0].detail["gone"]) == gone
    assert {watched.states()[name] for name in gone} == {WorkerState.DOWN}
    for name in gone:
        watched.world.store.roster.refresh(name, "a1", load=0)
    watched.look()
    watched.look()
    assert watched.kinds() == [NoticeKind.FLEET_DOWN, NoticeKind.FLEET_BACK]
    watched.pass_s(SETTINGS.probation_s + 1)
    watched.look()
    assert watched.kinds() == [NoticeKind.FLEET_DOWN, NoticeKind.FLEET_BACK]
    assert watched.world.store.incidents.now_open() == []


def test_those_that_stay_away_when_the_others_are_back_are_told(watched: Watched) -> None:
    watched.take_down("w0@h", "w1@h", "w2@h")
    for name in ("w0@h", "w1@h"):
        watched.world.store.roster.refresh(name, "a1", load=0)
    watched.look("w2@h")
    watched.look("w2@h")
    watched.pass_s(1000.0)
    watched.look("w2@h")
    assert watched.kinds().count(NoticeKind.WORKER_DOWN) == 1
    assert watched.told()[-1].subject == "w2@h"


def test_announced_absences_and_stops_are_told_to_nobody(watched: Watched) -> None:
    roster = watched.world.store.roster
    roster.announce("w1@h", who="ada", for_s=3600.0, reason=None)
    roster.stopping("w2@h", "a1", within_s=600.0)
    roster.gone("w3@h", "a1", announced=True)
    watched.look("w1@h", "w2@h")
    watched.look("w1@h", "w2@h")
    assert watched.told() == []
    assert watched.states().keys() == {"w0@h", "w1@h", "w4@h", "w5@h"}
    assert watched.states()["w1@h"] is WorkerState.SUSPECT
    # when that is over it is missed as any other
    roster.end_absence("w1@h")
    watched.take_down("w1@h")
    assert watched.kinds() == [NoticeKind.WORKER_DOWN]


def test_a_drain_that_takes_too_long_is_told_once(watched: Watched) -> None:
    watched.world.store.roster.stopping("w1@h", "a1", within_s=600.0)
    watched.look()
    assert watched.states()["w1@h"] is WorkerState.DRAINING
    watched.world.sql("UPDATE workers SET drain_until = drain_until - 1000")
    watched.look()
    watched.look()
    assert watched.kinds() == [NoticeKind.DRAIN_OVERDUE]
    watched.world.store.roster.gone("w1@h", "a1", announced=True)
    watched.look()
    assert watched.kinds() == [NoticeKind.DRAIN_OVERDUE]
    assert watched.world.store.incidents.now_open() == []


def test_one_that_an_operator_takes_off_ends_its_incident_quietly(watched: Watched) -> None:
    watched.take_down("w1@h")
    watched.world.store.roster.forget_worker("w1@h")
    watched.look()
    assert watched.kinds() == [NoticeKind.WORKER_DOWN]
    assert watched.world.store.incidents.now_open() == []


def test_one_that_ends_by_itself_is_told(watched: Watched) -> None:
    """As Celery does it after an error that it takes for lasting, without any signal."""
    watched.world.store.roster.gone("w1@h", "a1", announced=False)
    watched.look()
    watched.look()
    assert watched.kinds() == [NoticeKind.WORKER_LEFT]
    assert "w1@h" not in watched.states()


def test_one_that_disappears_long_after_an_outage_is_told_by_itself(watched: Watched) -> None:
    watched.add("w6@h", "w7@h")
    first = ["w0@h", "w1@h", "w2@h", "w3@h"]
    watched.take_down(*first)
    watched.pass_s(1000.0)
    watched.look(*first)
    assert watched.kinds() == [NoticeKind.FLEET_DOWN]  # which tells of them
    watched.take_down(*first, "w5@h")
    assert watched.kinds() == [NoticeKind.FLEET_DOWN, NoticeKind.WORKER_DOWN]
    assert watched.told()[1].subject == "w5@h"


def test_an_incident_that_was_left_open_ends_when_its_worker_works(watched: Watched) -> None:
    watched.take_down("w1@h")
    # as after a kill between the two: up again, its incident open
    watched.pass_s(SETTINGS.probation_s)
    watched.world.store.roster.refresh("w1@h", "a1", load=0)
    watched.world.sql("UPDATE workers SET state = 'UP'")
    watched.look()
    assert watched.world.store.incidents.now_open() == []
    assert watched.kinds() == [NoticeKind.WORKER_DOWN, NoticeKind.WORKER_BACK]
