"""Whoever may write into a queue can send anything; the workers outlive it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from amqp import Message
from kombu import Connection

from services.fleet import Fleet
from services.processes import wait_for
from wlm_tasks.control.queues import DEAD_QUEUE
from wlm_tasks.model.states import ExperimentState

GOOD: dict[str, Any] = {"task": "wlm.schedule", "id": "m-1", "lang": "py"}
EMBED: dict[str, Any] = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
CALLBACK = {"task": "wlm.setup", "args": ["exp-x"], "kwargs": {}, "options": {}}
HEADERS: dict[str, dict[str, Any]] = {
    "none": {},
    "no id": {"task": "wlm.setup"},
    "no task": {"id": "x"},
    "id of another kind": {**GOOD, "id": 5},
    "a long id": {**GOOD, "id": "x" * 300},
    "an id of two lines": {**GOOD, "id": "a\nb"},
    "task of another kind": {**GOOD, "task": ["wlm.setup"]},
    "unknown task": {**GOOD, "task": "os.system"},
    "unknown task without id": {"task": "os.system"},
    "a wait": {**GOOD, "eta": "2099-01-01T00:00:00"},
    "an expiry": {**GOOD, "expires": "2099-01-01T00:00:00"},
    "a time limit": {**GOOD, "timelimit": [0.001, "b"]},
    "retries of another kind": {**GOOD, "retries": "many"},
    "stamps of another kind": {**GOOD, "stamped_headers": 5, "stamps": "x"},
    "a root of another kind": {**GOOD, "root_id": {"a": 1}},
}
BODIES: dict[str, Any] = {
    "a table": {"a": 1},
    "two parts": [1, 2],
    "text": "x",
    "number": 5,
    "nothing": None,
    "wrong parts": [1, 2, 3],
    "arguments of another kind": [{}, {}, EMBED],
    "callbacks": [["{}"], {}, {**EMBED, "callbacks": [CALLBACK]}],
    "errbacks": [["{}"], {}, {**EMBED, "errbacks": [CALLBACK]}],
    "chord": [["{}"], {}, {**EMBED, "chord": CALLBACK}],
    "a foreign chain": [["{}"], {}, {**EMBED, "chain": [{"task": "os.system"}]}],
    "a chain of another kind": [["{}"], {}, {**EMBED, "chain": {"task": []}}],
    "links of another kind": [["{}"], {}, {**EMBED, "chain": [{"task": []}, 5]}],
}
RAW = {"no JSON": b"{", "no text": b"\xff\xfe", "nothing at all": b"", "deep": b"[" * 100_000}


def _messages() -> list[tuple[dict[str, Any], bytes, str]]:
    whole = json.dumps([["exp-x"], {}, EMBED]).encode()
    found = [(headers, whole, "application/json") for headers in HEADERS.values()]
    found += [(GOOD, json.dumps(body).encode(), "application/json") for body in BODIES.values()]
    found += [(GOOD, raw, "application/json") for raw in RAW.values()]
    found += [(GOOD, b"cos\nsystem\n", "application/x-python-serialize")]
    return found


def _send(url: str, queue: str) -> int:
    messages = _messages()
    with Connection(url) as connection:
        channel: Any = connection.default_channel
        for headers, body, kind in messages:
            message = Message(
                body, application_headers=headers, content_type=kind, content_encoding="utf-8"
            )
            channel.basic_publish(message, "wlm", queue)
    return len(messages)


@pytest.mark.timeout(120)
def test_no_message_ends_a_worker(tmp_path: Path, broker_url: str) -> None:
    with Fleet(tmp_path, broker_url, supervised=False) as fleet:
        worker = fleet.processes["worker0"]
        sent = sum(_send(broker_url, queue) for queue in ("scheduler", "envsetup", "monitor"))
        assert fleet.sweep(3).wait(60).status == {ExperimentState.DONE: 3}
        assert worker.running, fleet.logs()

        def dead() -> int:
            with fleet.client.app.connection_for_read() as connection:
                answer: Any = DEAD_QUEUE(connection.default_channel).queue_declare(passive=True)
                return int(answer[1])

        wait_for(lambda: dead() >= sent - 3, 30, "the malformed messages in wlm.dead")
        assert "Unrecoverable" not in worker.output
