"""The broker's side of control: queues and exchanges as they should be, and how full they are."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any, Final, cast

from amqp.exceptions import AMQPError
from kombu import Exchange, Queue
from kombu.exceptions import OperationalError

from wlm_tasks.celery import WlmCelery
from wlm_tasks.errors import ServiceError
from wlm_tasks.model.steps import SCHEDULER_QUEUE

EVENTS: Final = Exchange("wlm.events", type="topic", durable=True)
#: The orchestrators' door: who may write here can hand in experiments and nothing else.
DOOR: Final = Exchange("wlm.schedule", type="direct", durable=True)
DEAD: Final = Exchange("wlm.dead", type="direct", durable=True)
DEAD_QUEUE: Final = Queue(
    "wlm.dead",
    DEAD,
    routing_key="wlm.dead",
    durable=True,
    queue_arguments={"x-queue-type": "classic"},
)


def declare(app: WlmCelery) -> None:
    """Declare every exchange and queue; what is there already stays as it is."""
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0)
            with connection.channel() as channel:
                EVENTS(channel).declare()
                DEAD_QUEUE(channel).declare()
                for queue in app.amqp.queues.values():
                    queue(channel).declare()
                DOOR(channel).declare()
                Queue(SCHEDULER_QUEUE, channel=channel).bind_to(DOOR, SCHEDULER_QUEUE)
    except (OperationalError, AMQPError, OSError) as error:
        raise ServiceError(f"broker: {error}") from error


def depths(app: WlmCelery, queues: Sequence[str]) -> dict[str, int | None]:
    """Messages that wait in each queue, not counting those in workers' hands.

    None for a queue that does not exist. Raises `ServiceError` if the broker is out of reach.
    """
    found: dict[str, int | None] = {}
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0)
            for queue in queues:
                with closing(cast(Any, connection.channel())) as channel:
                    try:
                        found[queue] = channel.queue_declare(queue=queue, passive=True)[1]
                    except connection.channel_errors:
                        found[queue] = None
    except (OperationalError, AMQPError, OSError) as error:
        raise ServiceError(f"broker: {error}") from error
    return found
