"""Who is alive, as real agents tell it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from services.processes import wait_for
from services.serf import PrivateSerf, members_of, wait_until_joined
from wlm_tasks.cluster.agent import SerfAgent
from wlm_tasks.cluster.gossip import MemberStatus
from wlm_tasks.cluster.members import Membership, View
from wlm_tasks.cluster.tags import Role

Follow = Callable[[SerfAgent], Membership]


@pytest.fixture
def follow(serf: PrivateSerf) -> Iterator[Follow]:
    followed: list[Membership] = []

    def start(agent: SerfAgent) -> Membership:
        followed.append(Membership(agent.connect))
        followed[-1].start()
        return followed[-1]

    yield start
    for membership in followed:
        membership.close()


def statuses(view: View) -> dict[tuple[str, str], MemberStatus]:
    return {key: seen.status for key, seen in view.workers.items()}


def test_a_crash_a_leave_a_new_life_and_a_stranger(serf: PrivateSerf, follow: Follow) -> None:
    control = serf.started("control@host", role=Role.CONTROL)
    membership = follow(control)
    crashed = serf.started("crashed@host", "1")
    leaving = serf.started("leaving@host", "1")
    stranger = serf.started("stranger@host", "1")
    with stranger.connect() as gossip:
        gossip.set_tags({"role": "worker\n", "cel": "a,b=c\t", "q": "\udcff'\";$(x)"}, ["inc"])
    wait_for(lambda: membership.snapshot().strangers == 1, 10.0, "the stranger")
    assert membership.snapshot().workers.keys() == {("crashed@host", "1"), ("leaving@host", "1")}
    crashed.stop()
    again = serf.started("crashed@host", "2")  # at once, before its end is noticed
    leaving.leave()
    wanted = {
        ("crashed@host", "1"): MemberStatus.FAILED,
        ("crashed@host", "2"): MemberStatus.ALIVE,
        ("leaving@host", "1"): MemberStatus.LEFT,
    }
    wait_for(lambda: statuses(membership.snapshot()) == wanted, 30.0, "all of it")
    view = membership.snapshot()
    assert (view.connected, view.strangers, view.alive) == (True, 1, 3)
    gone = view.workers["crashed@host", "1"]
    assert gone.since > view.since
    membership.prune(gone.node)
    wait_for(lambda: gone.node not in members_of(again), 10.0, "everybody has forgotten it")
    wait_for(lambda: len(membership.snapshot().workers) == 2, 10.0, "so have we")


def test_a_restart_of_our_own_agent_is_followed(serf: PrivateSerf, follow: Follow) -> None:
    worker = serf.started()
    control = serf.started("control@host", role=Role.CONTROL)
    wait_until_joined(control, 2)
    membership = follow(control)
    wait_for(lambda: membership.snapshot().connected, 10.0, "connected")
    since, pid = membership.snapshot().since, control.pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: membership.snapshot().since > since, 10.0, "noticed")
    wait_for(
        lambda: membership.snapshot().connected and statuses(membership.snapshot()),
        15.0,
        "followed again",
    )
    assert statuses(membership.snapshot()) == {("w@host", "1"): MemberStatus.ALIVE}
    assert worker.alive()
