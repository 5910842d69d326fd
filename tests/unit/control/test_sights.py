"""What each witness says of a worker, from what was heard and since when anybody listened."""

from __future__ import annotations

import json
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from wlm_tasks.cluster.gossip import EventKind, MemberStatus
from wlm_tasks.cluster.members import View, WorkerSeen
from wlm_tasks.cluster.tags import Role, WorkerAttributes
from wlm_tasks.control.second_path import Noted
from wlm_tasks.control.sights import Evidence, sights
from wlm_tasks.control.witnesses import Heard
from wlm_tasks.model.workers import Sight, Witness, WorkerState
from wlm_tasks.state.roster import Present

NOW, PATIENCE_S = 10_000.0, 18.0
NAME, INCARNATION, PID = "stage1@node7", "a1", 4711


def worker(**fields: Any) -> Present:
    traits = {"heartbeats": True, "pool": "prefork", "serf": True, **fields.pop("traits", {})}
    values: dict[str, Any] = {
        "name": NAME, "incarnation": INCARNATION, "host": "node7", "pid": PID, "queues": "[]",
        "state": WorkerState.UP, "for_s": 900.0, "heard_s": 2.0, "age_s": 1000.0,
        "registered_at": 0.0, "draining": False, "deadline_s": None, "gone": False,
        "witnesses": None,
    }  # fmt: skip
    return Present(**{**values, "attributes": json.dumps(traits), **fields})


def evidence(**fields: Any) -> Evidence:
    values: dict[str, Any] = {
        "now": NOW, "patience_s": PATIENCE_S, "database_since": NOW - 500.0,
        "heartbeats_since": NOW - 500.0, "heard": {NAME: Heard(NOW - 3.0, PID, goodbye=False)},
    }  # fmt: skip
    return Evidence(**{**values, **fields})


def heard(ago_s: float, pid: int | None = PID, *, goodbye: bool = False) -> dict[str, Heard]:
    return {NAME: Heard(NOW - ago_s, pid, goodbye=goodbye)}


def said(witness: Witness, found: Evidence, **fields: Any) -> tuple[bool, float] | None:
    sight: Sight | None = sights(worker(**fields), found).get(witness)
    return None if sight is None else (sight.alive, sight.for_s)


@pytest.mark.parametrize(
    ("found", "fields", "expected"),
    [
        (evidence(), {}, (True, 3.0)),
        (evidence(heard=heard(17.0)), {}, (True, 17.0)),
        (evidence(heard=heard(40.0)), {}, (False, 40.0)),
        # nobody listened, or not long enough to miss it
        (evidence(heartbeats_since=None), {}, None),
        (evidence(heard=heard(400.0), heartbeats_since=NOW - 10.0), {}, None),
        (evidence(heard=heard(400.0), heartbeats_since=NOW - 30.0), {}, (False, 30.0)),
        # never heard: it may be new
        (evidence(heard={}), {"age_s": 5.0}, None),
        (evidence(heard={}), {"age_s": 50.0}, (False, 50.0)),
        # of the process that had the name before
        (evidence(heard=heard(3.0, pid=1)), {"age_s": 5.0}, None),
        (evidence(heard=heard(3.0, pid=1)), {"age_s": 50.0}, (False, 50.0)),
        (evidence(heard=heard(3.0, pid=None)), {}, (True, 3.0)),
        # its last word was that it goes
        (evidence(heard=heard(3.0, goodbye=True)), {}, (False, 3.0)),
        # it sends none
        (evidence(heard={}), {"traits": {"heartbeats": False}}, None),
        # a task keeps the main loop of a solo pool from speaking
        (evidence(heard=heard(99.0)), {"traits": {"pool": "solo"}}, None),
        (evidence(heard=heard(99.0)), {"traits": {"pool": "solo"}, "heard_s": 99.0}, (False, 99.0)),
        (evidence(heard=heard(3.0, goodbye=True)), {"traits": {"pool": "solo"}}, (False, 3.0)),
    ],
)
def test_heartbeats(
    found: Evidence, fields: dict[str, Any], expected: tuple[bool, float] | None
) -> None:
    assert said(Witness.CELERY, found, **fields) == expected


def test_one_that_loses_its_connection_and_is_back_has_not_said_goodbye() -> None:
    found = evidence(heard=heard(1.0))  # offline, then online
    assert said(Witness.CELERY, found) == (True, 1.0)
    assert not sights(worker(), evidence(heard=heard(1.0)))[Witness.CELERY].goodbye
    assert sights(worker(), evidence(heard=heard(1.0, goodbye=True)))[Witness.CELERY].goodbye


@pytest.mark.parametrize(
    ("fields", "age_s", "expected"),
    [
        ({}, 1000.0, None),
        ({"queues_since": NOW - 100.0}, 1000.0, None),
        ({"queues_since": NOW - 100.0, "queues_gone": {NAME: NOW - 4.0}}, 1000.0, (False, 4.0)),
        ({"queues_since": None, "queues_gone": {NAME: NOW - 4.0}}, 1000.0, None),
        # from before a gap, and of the process that had the name before
        ({"queues_since": NOW - 2.0, "queues_gone": {NAME: NOW - 4.0}}, 1000.0, None),
        ({"queues_since": NOW - 100.0, "queues_gone": {NAME: NOW - 4.0}}, 3.0, None),
    ],
)
def test_the_brokers_own_events(
    fields: dict[str, Any], age_s: float, expected: tuple[bool, float] | None
) -> None:
    assert said(Witness.BROKER, evidence(**fields), age_s=age_s) == expected


@pytest.mark.parametrize(
    ("heard_s", "since_s", "expected"),
    [
        (2.0, 500.0, (True, 2.0)),
        (30.0, 500.0, (False, 30.0)),
        (30.0, 10.0, None),  # the database was away: the worker could not write, either
        (2.0, 0.0, (True, 2.0)),
    ],
)
def test_signs_of_life_in_the_database(
    heard_s: float, since_s: float, expected: tuple[bool, float] | None
) -> None:
    found = evidence(database_since=NOW - since_s)
    assert said(Witness.DATABASE, found, heard_s=heard_s) == expected


def view(status: MemberStatus | None = MemberStatus.ALIVE, **fields: Any) -> View:
    told = WorkerAttributes(role=Role.WORKER, name=NAME, incarnation=INCARNATION)
    seen = {} if status is None else {
        (NAME, INCARNATION): WorkerSeen(
            status=status, since=NOW - 9.0, attributes=told, node="stage1.a1"
        )
    }  # fmt: skip
    values: dict[str, Any] = {
        "connected": True, "since": NOW - 300.0, "listed_at": NOW - 5.0, "alive": 4,
        "workers": MappingProxyType(seen),
    }  # fmt: skip
    return View(**{**values, **fields})


@pytest.mark.parametrize(
    ("serf", "expected", "goodbye"),
    [
        (None, None, False),
        (view(), (True, 9.0), False),
        (view(MemberStatus.LEAVING), (True, 9.0), False),
        (view(MemberStatus.FAILED), (False, 9.0), False),
        (view(MemberStatus.LEFT), (False, 9.0), True),
        (view(MemberStatus.FAILED, connected=False), None, False),
        (view(MemberStatus.FAILED, listed_at=None), None, False),
        # not listed: it may not have joined yet, or our agent is cut off
        (view(None), (False, 300.0), False),
        (view(None, since=NOW - 20.0), None, False),
        (view(None, alive=1), None, False),
    ],
)
def test_serf(serf: View | None, expected: tuple[bool, float] | None, goodbye: bool) -> None:
    found = evidence(serf=serf)
    assert said(Witness.SERF, found) == expected
    sight = sights(worker(), found).get(Witness.SERF)
    assert (sight is not None and sight.goodbye) is goodbye
    assert said(Witness.SERF, found, traits={"serf": False}) is None


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (EventKind.FAILED, (False, 7.0)),
        (EventKind.LEAVE, (False, 7.0)),
        (EventKind.JOIN, None),
        (EventKind.UPDATE, None),
    ],
)
def test_what_handlers_wrote_counts_while_the_agent_cannot_be_asked(
    kind: EventKind, expected: tuple[bool, float] | None
) -> None:
    noted = {(NAME, INCARNATION): Noted(kind, NOW - 7.0)}
    away = evidence(serf=view(connected=False), noted=noted)
    assert said(Witness.SERF, away) == expected
    assert said(Witness.SERF, replace(away, serf=view())) == (True, 9.0)
