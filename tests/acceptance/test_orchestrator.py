"""The orchestrators' door: the whole flow by messages alone, with nothing of ours."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import amqp
import pytest

from services.fleet import Fleet, Layout


class MockOrchestrator:
    """Speaks AMQP and JSON; knows the message format from the docs and nothing else."""

    def __init__(self, url: str) -> None:
        host_port, _, vhost = url.removeprefix("amqp://guest:guest@").partition("/")
        self._connection = amqp.Connection(
            host=host_port, userid="guest", password="guest", virtual_host=vhost
        )
        self._connection.connect()
        self._channel = self._connection.channel()
        self._channel.exchange_declare("wlm.events", "topic", durable=True, auto_delete=False)
        queue = self._channel.queue_declare(exclusive=True)
        assert queue is not None
        for key in ("experiment.#", "submission.#"):
            self._channel.queue_bind(queue[0], "wlm.events", routing_key=key)
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._seen: set[str] = set()
        self._channel.basic_consume(queue[0], callback=self._received, no_ack=True)

    def _received(self, message: amqp.Message) -> None:
        if message.properties["message_id"] not in self._seen:
            self._seen.add(message.properties["message_id"])
            self.events.append((message.delivery_info["routing_key"], json.loads(message.body)))

    def schedule(self, experiment: dict[str, Any], **options: Any) -> None:
        task_id = str(uuid.uuid4())
        body = json.dumps(
            [
                [experiment],
                options,
                {"callbacks": None, "errbacks": None, "chain": None, "chord": None},
            ]
        )
        message = amqp.Message(
            body,
            content_type="application/json",
            content_encoding="utf-8",
            delivery_mode=2,
            correlation_id=task_id,
            application_headers={
                "lang": "py",
                "task": "wlm.schedule",
                "id": task_id,
                "root_id": task_id,
                "parent_id": None,
                "group": None,
            },
        )
        self._channel.basic_publish(message, exchange="wlm", routing_key="scheduler")

    def until(self, key: str, states: set[str], timeout: float = 60) -> list[str]:
        """Drain events until this key's experiment is in one of the states; its states so far."""
        while True:
            seen = [
                body["state"]
                for _, body in self.events
                if body["key"] == key and not body.get("again")
            ]
            if states & set(seen):
                return seen
            self.drain(timeout)

    def drain(self, timeout: float = 60) -> None:
        """Wait for the next event."""
        self._connection.drain_events(timeout=timeout)

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(scope="module")
def fleet(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Fleet]:
    rabbitmq = request.getfixturevalue("rabbitmq")
    with Fleet(tmp_path_factory.mktemp("fleet"), rabbitmq.new_vhost(), Layout()) as fleet:
        yield fleet


@pytest.fixture
def orchestrator(fleet: Fleet) -> Iterator[MockOrchestrator]:
    mock = MockOrchestrator(fleet.vhost_url)
    yield mock
    mock.close()


def test_an_experiment_by_messages_alone(
    fleet: Fleet, orchestrator: MockOrchestrator, tmp_path: Path
) -> None:
    result = tmp_path / "out.txt"
    experiment = {
        "name": "by message",
        "site": "local",
        "commands": ["echo {word} > out.txt"],
        "outputs": [{"src": "out.txt", "dest": str(result)}],
    }
    for _ in range(3):  # sent three times, carried out once
        orchestrator.schedule(experiment, key="order-1", params={"word": "hello"})
    states = orchestrator.until("order-1", {"DONE", "FAILED"})
    assert states[0] == "QUEUED"
    assert states[-1] == "DONE"
    assert len(states) == len(set(states)), "each change of state is told once"
    assert result.read_text() == "hello\n"
    [experiment_id] = {body["experiment"] for _, body in orchestrator.events}
    orchestrator.schedule(experiment, key="order-1", params={"word": "hello"})
    while not orchestrator.events[-1][1]["again"] or orchestrator.events[-1][1]["state"] != "DONE":
        orchestrator.drain()  # who asks late is told the present state once more
    assert orchestrator.events[-1][0] == f"experiment.{experiment_id}.DONE"
    assert len([view for view in fleet.client.list() if view.key == "order-1"]) == 1


def test_a_failure_is_told_with_its_reason(orchestrator: MockOrchestrator) -> None:
    orchestrator.schedule({"name": "bad", "site": "local", "commands": ["exit 3"]}, key="order-2")
    orchestrator.until("order-2", {"FAILED"})
    reasons = [body["reason"] for _, body in orchestrator.events if body["state"] == "FAILED"]
    assert "3" in reasons[-1]


@pytest.mark.parametrize(
    ("experiment", "options", "expected"),
    [
        ({"name": "x", "site": "local"}, {}, "commands"),
        ({"name": "x", "site": "nowhere", "commands": ["true"]}, {}, "nowhere"),
        (
            {
                "name": "x",
                "site": "local",
                "commands": ["true"],
                "inputs": [{"src": "a", "dest": "a"}],
            },
            {},
            "inputs[0].src",
        ),
        ({"name": "x", "site": "local", "commands": ["{T}"]}, {"sweep": {"T": []}}, "T"),
        (
            {"name": "x", "site": "local", "commands": ["true"]},
            {"sweep_mode": "cross"},
            "sweep_mode",
        ),
        (
            {"name": "x", "site": "local", "commands": ["true"]},
            {"prams": {"n": 1}},
            "argument: got 'prams'",
        ),
        (
            {"name": "x", "site": "local", "commands": ["echo {n}"]},
            {"sweep": {"n": [1]}, "max_active": 2**70},
            "max_active",
        ),
    ],
)
def test_bad_input_is_told_and_writes_nothing(
    fleet: Fleet,
    orchestrator: MockOrchestrator,
    experiment: dict[str, Any],
    options: dict[str, Any],
    expected: str,
) -> None:
    before = len(fleet.client.list())
    key = uuid.uuid4().hex
    orchestrator.schedule(experiment, key=key, **options)
    orchestrator.until(key, {"REJECTED"})
    routing_key, body = orchestrator.events[-1]
    assert routing_key == f"submission.{key}.REJECTED"
    assert expected in body["reason"]
    assert len(fleet.client.list()) == before


def test_a_long_key_of_many_bytes_stops_nobody(orchestrator: MockOrchestrator) -> None:
    """AMQP's routing keys end at 255 bytes; the event carries the whole key."""
    long = chr(0xE9) * 150
    orchestrator.schedule({"name": "x"}, key=long)
    orchestrator.until(long, {"REJECTED"})
    assert orchestrator.events[-1][0] == f"submission.{chr(0xE9) * 100}.REJECTED"
    orchestrator.schedule({"name": "x", "site": "local", "commands": ["true"]}, key="after-it")
    orchestrator.until("after-it", {"DONE"})


def test_a_sweep_by_message(fleet: Fleet, orchestrator: MockOrchestrator) -> None:
    orchestrator.schedule(
        {"name": "swept", "site": "noop", "commands": ["echo {n}"]},
        key="sweep-1",
        sweep={"n": [1, 2, 3]},
    )
    done: set[str] = set()
    while len(done) < 3:
        done = {
            body["experiment"]
            for _, body in orchestrator.events
            if body["sweep"] and body["key"] == "sweep-1" and body["state"] == "DONE"
        }
        if len(done) < 3:
            orchestrator.drain()
