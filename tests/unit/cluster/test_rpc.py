"""The client of Serf's RPC against answers of every kind."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.cluster.fake_agent import FakeAgent, member, ok, packed

from services.processes import wait_for
from wlm_tasks.cluster.gossip import EventKind, Member, MemberStatus, read_event, read_members
from wlm_tasks.cluster.rpc import RpcClient
from wlm_tasks.errors import ServiceError

W1 = Member("w1", MemberStatus.ALIVE, "127.0.0.1", 7946, {"role": "worker"})


def event(seq: int, kind: str, *members: object) -> bytes:
    return packed(ok(seq), {"Event": kind, "Members": list(members)})


def test_events_between_a_question_and_its_answer_are_kept() -> None:
    streams: list[int] = []

    def answers(command: str, seq: int, body: Mapping[str, Any]) -> bytes:
        if command == "stream":
            streams.append(seq)
            return packed(ok(seq))
        join = event(streams[0], "member-join", member("w1", role="worker"))
        if command == "tags":
            return join + packed(ok(seq)) + join
        return join + packed(ok(seq), {"Members": [member("w1", role="worker")]})

    with FakeAgent(answers) as agent, RpcClient(agent.port) as client:
        client.watch()
        client.set_tags({})
        assert client.members() == [W1]
        found = client.events(5.0)
        while len(found) < 3:
            found += client.events(5.0)
        assert [(one.kind, one.members) for one in found] == [(EventKind.JOIN, (W1,))] * 3
        assert client.events(0.0) == []


def test_an_answer_in_pieces_is_one_answer() -> None:
    whole = packed(ok(2), {"Members": [member("w1", role="worker")] * 50})

    with FakeAgent(lambda *_: b"") as agent, RpcClient(agent.port, reply_s=10.0) as client:

        def drip() -> None:
            wait_for(lambda: "members" in agent.commands)
            for byte in whole:
                agent.connections[0].sendall(bytes([byte]))

        dripping = threading.Thread(target=drip)
        dripping.start()
        assert client.members() == [W1] * 50
        dripping.join()


def test_an_event_whose_body_is_late_is_not_lost() -> None:
    with FakeAgent(lambda _c, seq, _b: packed(ok(seq))) as agent, RpcClient(agent.port) as client:
        client.watch()
        whole = event(2, "member-failed", member("w1", "failed", role="worker"))
        head = packed(ok(2))
        agent.connections[0].sendall(head)
        assert client.events(0.05) == []
        agent.connections[0].sendall(whole[len(head) :])
        (found,) = client.events(5.0)
        assert (found.kind, found.members[0].status) == (EventKind.FAILED, MemberStatus.FAILED)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "the agent has closed the connection"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "its answer is not Serf's"),
        (b"\xc1\xc1\xc1", "its answer is not Serf's"),
        (packed([1, 2]), "its answer is not Serf's"),
        (packed({"Seq": 99, "Error": ""}), "an answer to nothing that was asked"),
        (packed({"Error": ""}), "an answer to nothing that was asked"),
        (b"", "no answer to 'members' within 0.2 s"),
        (packed(ok(2)), "no answer to 'members' within 0.2 s"),
        (packed({"Seq": 2, "Error": "no\nway"}), "members: no way"),
    ],
    ids=str,
)
def test_a_wrong_answer_is_told_and_ends_the_connection(answer: bytes | None, words: str) -> None:
    with FakeAgent(lambda *_: answer) as agent, RpcClient(agent.port, reply_s=0.2) as client:
        with pytest.raises(ServiceError, match=f"Serf's RPC at 127.0.0.1:{agent.port}: {words}"):
            client.members()
        with pytest.raises(ServiceError):  # never taken for the answer to something else
            client.members()


def test_a_refusal_without_more_leaves_the_connection_as_it_is() -> None:
    def answers(command: str, seq: int, _body: Mapping[str, Any]) -> bytes:
        if command == "tags":
            return packed({"Seq": seq, "Error": "too long"})
        return packed(ok(seq), {"Members": []})

    with FakeAgent(answers) as agent, RpcClient(agent.port) as client:
        with pytest.raises(ServiceError, match="tags: too long"):
            client.set_tags({"a": "b"})
        assert client.members() == []


def test_closing_ends_the_wait_of_another_thread() -> None:
    told: list[str] = []
    with FakeAgent(lambda _c, seq, _b: packed(ok(seq))) as agent:
        client = RpcClient(agent.port)
        client.watch()

        def wait() -> None:
            try:
                client.events(60.0)
            except ServiceError as error:
                told.append(error.message)

        waiting = threading.Thread(target=wait)
        waiting.start()
        client.close()
        waiting.join(10.0)
        assert len(told) == 1


def test_members_that_make_no_sense_are_left_out() -> None:
    good = member("w1", role="worker")
    assert read_members(
        [
            *(None, 7, [], {}),
            good | {"Name": ""},
            good | {"Name": 7},
            good | {"Status": "none"},
            good | {"Status": ["alive"]},
            good,
        ]
    ) == [W1]
    odd = good | {"Addr": b"abc", "Port": -1, "Tags": {"a": 1, 2: "b", "c": "d"}}
    assert read_members([odd]) == [Member("w1", MemberStatus.ALIVE, "", 0, {"c": "d"})]


@pytest.mark.parametrize(
    ("raw", "address"),
    [
        (b"\x0a\0\0\7", "10.0.0.7"),
        (b"\0" * 10 + b"\xff\xff\x0a\0\0\7", "10.0.0.7"),
        (b"\xfe\x80" + b"\0" * 13 + b"\1", "fe80::1"),
        ("\x0a\0\0\7", "10.0.0.7"),
        (None, ""),
    ],
)
def test_addresses_of_both_kinds(raw: object, address: str) -> None:
    (found,) = read_members([member("w1") | {"Addr": raw}])
    assert found.address == address


things = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["Name", "Status", "Tags", "Addr", "Port", "Event", "Members"]), inner
        )
    ),
    max_leaves=12,
)


@given(things)
def test_no_record_is_too_strange(thing: object) -> None:
    read_event(thing)
    read_members(thing)


@given(st.binary(max_size=300))
@settings(max_examples=40, deadline=None)
def test_no_bytes_are_too_strange(data: bytes) -> None:
    with (
        FakeAgent(lambda *_: data) as agent,
        RpcClient(agent.port, reply_s=0.02) as client,
        pytest.raises(ServiceError),
    ):
        client.members()
