"""What is made of an agent's words about members."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from unit.cluster.fake_agent import FakeAgent, member, ok, packed

from services.processes import wait_for
from wlm_tasks.cluster.gossip import Gossip, MemberStatus
from wlm_tasks.cluster.members import Membership, View
from wlm_tasks.cluster.rpc import RpcClient
from wlm_tasks.errors import ServiceError


class Cluster:
    """An agent that tells what it is told to."""

    def __init__(self) -> None:
        self.members: list[object] = []
        self.streams: list[int] = []
        self.fake = FakeAgent(self._answers)
        self.down = False
        self.changes = 0

    def _answers(self, command: str, seq: int, _body: Mapping[str, Any]) -> bytes:
        if command == "stream":
            self.streams.append(seq)
            return packed(ok(seq))
        if command == "members":
            return packed(ok(seq), {"Members": self.members})
        return packed(ok(seq))

    def connect(self) -> Gossip:
        if self.down:
            raise ServiceError("Serf: the agent does not run yet")
        return RpcClient(self.fake.port)

    def tell(self, kind: str, *members: object) -> None:
        """Send an event."""
        body = {"Event": kind, "Members": list(members)}
        self.fake.connections[-1].sendall(packed(ok(self.streams[-1]), body))

    def changed(self) -> None:
        self.changes += 1


def worker(node: str, status: str = "alive", **tags: str) -> dict[str, object]:
    return member(node, status, **({"role": "worker", "cel": "w@h", "inc": "1"} | tags))


@contextmanager
def following(*members: object) -> Iterator[tuple[Cluster, Membership]]:
    cluster = Cluster()
    cluster.members = list(members)
    with cluster.fake:
        membership = Membership(cluster.connect, on_change=cluster.changed)
        membership.start()
        wait_for(lambda: membership.snapshot().connected)
        yield cluster, membership
        cluster.down = True
        cluster.fake.hang_up()
        membership.close()


def status_of(view: View, name: str = "w@h", incarnation: str = "1") -> MemberStatus | None:
    seen = view.workers.get((name, incarnation))
    return seen.status if seen else None


def test_members_are_sorted_into_workers_others_and_strangers() -> None:
    with following(
        worker("a", cel="w1@h", ld="4"),
        worker("b", "failed", cel="w2@h", inc="x"),
        member("c", role="control", cel="c@h", inc="1"),
        member("d", "alive", role="king"),
        member("e", "left"),
        "garbage",
    ) as (_, membership):
        view = membership.snapshot()
        assert view.workers.keys() == {("w1@h", "1"), ("w2@h", "x")}
        assert view.workers["w1@h", "1"].attributes.load == 4
        assert view.workers["w2@h", "x"].status is MemberStatus.FAILED
        assert view.workers["w2@h", "x"].node == "b"
        assert (view.alive, view.strangers) == (3, 2)


def test_since_is_when_the_status_was_first_seen() -> None:
    with following(worker("a")) as (cluster, membership):
        first = membership.snapshot().workers["w@h", "1"]
        cluster.tell("member-update", worker("a", ld="7"))
        wait_for(lambda: membership.snapshot().workers["w@h", "1"].attributes.load == 7)
        assert membership.snapshot().workers["w@h", "1"].since == first.since
        before = time.monotonic()
        cluster.members = [worker("a", "failed", ld="7")]
        cluster.tell("member-failed", worker("a", "failed"))
        wait_for(lambda: status_of(membership.snapshot()) is MemberStatus.FAILED)
        assert membership.snapshot().workers["w@h", "1"].since >= before


def test_a_join_that_is_told_as_a_change_of_tags_only() -> None:
    with following(worker("a"), worker("b", "failed", inc="2")) as (cluster, membership):
        cluster.members = [worker("a"), worker("b", inc="2"), worker("c", inc="3")]
        cluster.tell("member-update", worker("a"), worker("c", inc="3"))
        wait_for(lambda: status_of(membership.snapshot(), incarnation="3") is MemberStatus.ALIVE)
    with following(worker("a"), worker("b", "failed", inc="2")) as (cluster, membership):
        cluster.members = [worker("a"), worker("b", inc="2")]
        cluster.tell("member-update", worker("b", inc="2"))
        wait_for(lambda: status_of(membership.snapshot(), incarnation="2") is MemberStatus.ALIVE)


def test_an_old_event_does_not_undo_what_the_agent_tells_now() -> None:
    with following(worker("a", "failed")) as (cluster, membership):
        cluster.tell("member-join", worker("a"))  # seconds old: agents collect events
        asked = cluster.fake.commands.count("members")
        wait_for(lambda: cluster.fake.commands.count("members") > asked)
        changes = cluster.changes
        cluster.tell("member-reap", worker("zzz"))
        wait_for(lambda: cluster.changes > changes)
        assert status_of(membership.snapshot()) is MemberStatus.FAILED


def test_who_is_not_listed_any_more_is_gone() -> None:
    with following(worker("a"), worker("b", cel="w2@h")) as (cluster, membership):
        cluster.members = [worker("b", cel="w2@h")]
        cluster.tell("member-reap", worker("a"))
        wait_for(lambda: status_of(membership.snapshot()) is None)
        assert status_of(membership.snapshot(), "w2@h") is MemberStatus.ALIVE


def test_of_two_nodes_of_one_worker_the_living_one_counts() -> None:
    with following(worker("a", "failed"), worker("a.1"), worker("a.2", "left")) as (_, membership):
        seen = membership.snapshot().workers["w@h", "1"]
        assert (seen.status, seen.node) == (MemberStatus.ALIVE, "a.1")


def test_a_new_life_is_another_worker() -> None:
    with following(worker("a", "failed"), worker("b", inc="2")) as (_, membership):
        view = membership.snapshot()
        assert status_of(view) is MemberStatus.FAILED
        assert status_of(view, incarnation="2") is MemberStatus.ALIVE


def test_while_the_agent_is_away_the_last_view_stays_and_says_so() -> None:
    with following(worker("a")) as (cluster, membership):
        began = membership.snapshot().since
        cluster.down = True
        cluster.fake.hang_up()
        wait_for(lambda: not membership.snapshot().connected)
        view = membership.snapshot()
        assert view.since > began
        assert status_of(view) is MemberStatus.ALIVE
        wait_for(lambda: membership.snapshot().trouble == "Serf: the agent does not run yet")
        assert membership.snapshot().since == view.since
        cluster.members = [worker("a", "failed")]
        cluster.down = False
        wait_for(lambda: membership.snapshot().connected)
        assert status_of(membership.snapshot()) is MemberStatus.FAILED
        assert membership.snapshot().since > view.since
        assert membership.snapshot().trouble is None


def test_garbage_on_the_line_costs_one_connection() -> None:
    with following(worker("a")) as (cluster, membership):
        connections = len(cluster.streams)
        cluster.fake.connections[-1].sendall(b"\xc1garbage")
        wait_for(lambda: len(cluster.streams) > connections)
        wait_for(lambda: membership.snapshot().connected)


def test_without_any_event_all_is_listed_again_now_and_then() -> None:
    cluster = Cluster()
    with cluster.fake:
        membership = Membership(cluster.connect, listing_s=0.02)
        membership.start()
        wait_for(lambda: cluster.fake.commands.count("members") >= 3)
        cluster.down = True
        cluster.fake.hang_up()
        membership.close()


def test_a_fault_in_who_is_told_does_not_end_the_following() -> None:
    cluster = Cluster()
    faults = threading.Event()

    def faulty() -> None:
        if not faults.is_set():
            faults.set()
            raise RuntimeError("boom")

    with cluster.fake:
        membership = Membership(cluster.connect, on_change=faulty)
        membership.start()
        wait_for(lambda: faults.is_set() and len(cluster.streams) > 1)
        wait_for(lambda: membership.snapshot().connected)
        cluster.down = True
        cluster.fake.hang_up()
        membership.close()
