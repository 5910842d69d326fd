"""What each user may do on the broker, and what not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from amqp.exceptions import AccessRefused
from integration.deploy.broker import USERS, DeployedBroker
from kombu import Exchange, Producer, Queue

from wlm_tasks.model.steps import ALL_QUEUES

pytestmark = pytest.mark.rabbitmq

Action = Callable[[Any], object]


def _publish(exchange: str, key: str) -> Action:
    def publish(channel: Any) -> None:
        Producer(channel).publish({}, exchange=exchange, routing_key=key)

    publish.__name__ = f"publish {exchange or 'default'} {key}"
    return publish


def _declare(name: str) -> Action:
    def declare(channel: Any) -> None:
        channel.queue_declare(name, durable=True, auto_delete=True)

    declare.__name__ = f"declare {name}"
    return declare


def _get(name: str) -> Action:
    def get(channel: Any) -> None:
        channel.basic_get(name, no_ack=False)

    get.__name__ = f"get {name}"
    return get


def _listen(name: str, exchange: str, kind: str) -> Action:
    def listen(channel: Any) -> None:
        place = Exchange(exchange, type=kind, durable=True, passive=True)
        Queue(name, place, "#", auto_delete=True, durable=True)(channel).declare()
        channel.basic_get(name, no_ack=False)

    listen.__name__ = f"listen {name} on {exchange}"
    return listen


def _declare_exchange(name: str) -> Action:
    def declare(channel: Any) -> None:
        channel.exchange_declare(name, "fanout", durable=True, auto_delete=False)

    declare.__name__ = f"declare exchange {name}"
    return declare


ALLOWED: list[tuple[str, Action]] = [
    *(("wlm-worker", _get(name)) for name in ALL_QUEUES),
    *(("wlm-worker", _publish("wlm", name)) for name in ALL_QUEUES),
    *(("wlm-control", _publish("wlm", name)) for name in ALL_QUEUES),
    ("wlm-control", _publish("wlm.events", "experiment.exp-1.DONE")),
    ("wlm-control", _get("wlm.dead")),
    ("wlm-orchestrator", _publish("wlm.schedule", "scheduler")),
    ("wlm-orchestrator", _listen("orchestrator.portal", "wlm.events", "topic")),
]
REFUSED: list[tuple[str, Action]] = [
    *((user, _publish("", "jobsub")) for user in USERS),
    *((user, _declare("payroll")) for user in USERS),
    *((user, _declare_exchange("elsewhere")) for user in USERS),
    ("wlm-worker", _publish("wlm.events", "experiment.exp-1.DONE")),
    ("wlm-worker", _get("wlm.dead")),
    ("wlm-worker", _listen("celeryev.spy", "wlm.events", "topic")),
    ("wlm-control", _listen("celeryev.spy", "wlm.events", "topic")),
    *(("wlm-orchestrator", _get(name)) for name in (*ALL_QUEUES, "wlm.dead")),
    ("wlm-orchestrator", _publish("wlm", "jobsub")),
    ("wlm-orchestrator", _publish("wlm", "scheduler")),
    ("wlm-orchestrator", _publish("wlm.events", "experiment.exp-1.DONE")),
    ("wlm-orchestrator", _publish("wlm.dead", "wlm.dead")),
    ("wlm-orchestrator", _declare("scheduler")),
    ("wlm-orchestrator", _listen("orchestrator.spy", "wlm", "direct")),
    *(("wlm-flower", _get(name)) for name in ALL_QUEUES),
    ("wlm-flower", _publish("wlm", "jobsub")),
    ("wlm-flower", _publish("wlm.schedule", "scheduler")),
]


def _name(value: object) -> str:
    return value if isinstance(value, str) else getattr(value, "__name__", "")


@pytest.mark.parametrize(("user", "action"), ALLOWED, ids=_name)
def test_allowed(empty: DeployedBroker, user: str, action: Action) -> None:
    with empty.connect(user) as connection:
        action(connection.channel())


@pytest.mark.parametrize(("user", "action"), REFUSED, ids=_name)
def test_refused(broker: DeployedBroker, user: str, action: Action) -> None:
    with broker.connect(user) as connection, pytest.raises(AccessRefused):
        action(connection.channel())
