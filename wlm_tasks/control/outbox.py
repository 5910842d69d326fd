"""The outbox: every change of an experiment's state goes out on the exchange ``wlm.events``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from amqp.exceptions import AMQPError
from kombu.exceptions import OperationalError

from wlm_tasks.celery import WlmCelery
from wlm_tasks.control import news
from wlm_tasks.control.queues import EVENTS
from wlm_tasks.errors import ServiceError
from wlm_tasks.state.coordination import OutboxEvent
from wlm_tasks.state.sites import SITE_EVENT

#: Events published between two waits for the broker's confirmation.
BATCH = 500
#: Most bytes of a sender's key in a routing key, of which AMQP allows 255.
_KEY_BYTES = 200
#: Seconds to wait for the broker's confirmation before the batch is published again.
CONFIRM_TIMEOUT_S = 10.0


def publish(app: WlmCelery, notifiers: Sequence[str] = ()) -> int:
    """Publish what has not gone out, in order; marked only after the broker has confirmed it.

    What people chose to be told of it becomes notices, by these notifiers.

    A crash in between publishes some events twice, with the same ``message_id``. Raises
    `ServiceError` if the broker is out of reach.
    """
    coordination = app.runtime.store.coordination
    published = 0
    while True:
        waiting = coordination.unpublished(BATCH)
        if waiting and not app.settings.embedded:
            coordination.flush()
            _send(app, waiting)
        if waiting:
            news.tell(app, waiting, notifiers)
            coordination.mark_published([event.id for event in waiting])
        published += len(waiting)
        # what came meanwhile goes with the next batch: many small ones would cost far more
        if len(waiting) < BATCH:
            return published


def _send(app: WlmCelery, waiting: list[OutboxEvent]) -> None:
    """Publish a batch and wait once until the broker has confirmed all of it."""
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0)
            channel: Any = connection.default_channel
            EVENTS(channel).declare()
            confirms = _Confirms(channel, len(waiting))
            for event in waiting:
                channel.basic_publish(_message(channel, event), EVENTS.name, routing_key(event))
            while confirms.missing:
                connection.drain_events(timeout=CONFIRM_TIMEOUT_S)
    except (OperationalError, AMQPError, OSError) as error:
        raise ServiceError(f"broker: {error}") from error


def _message(channel: Any, event: OutboxEvent) -> Any:
    properties = {
        "delivery_mode": 2,
        "message_id": str(event.id),
        "timestamp": int(event.at),
        "type": event.state,
        "app_id": "wlm_tasks",
    }
    return channel.prepare_message(
        json.dumps(body(event)),
        content_type="application/json",
        content_encoding="utf-8",
        properties=properties,
    )


class _Confirms:
    """What a channel's broker has not confirmed yet; it may confirm many messages at once."""

    def __init__(self, channel: Any, count: int) -> None:
        self.missing = set(range(1, count + 1))  #: delivery tags
        channel.confirm_select()
        channel.events["basic_ack"].add(self._acked)
        # A consumer's queue that is full and rejects is its owner's wish; others have the event.
        channel.events["basic_nack"].add(self._acked)

    def _acked(self, delivery_tag: int, multiple: bool) -> None:
        if multiple:
            self.missing = {tag for tag in self.missing if tag > delivery_tag}
        else:
            self.missing.discard(delivery_tag)


def routing_key(event: OutboxEvent) -> str:
    """``experiment.<id>.<state>``, ``site.<name>.<state>``, ``submission.<key>.REJECTED``."""
    if event.state == SITE_EVENT:
        return f"site.{str(event.detail['site']).replace('.', '_')}.{event.detail['state']}"
    if event.experiment_id is None:
        key = str(event.detail.get("key") or "none").replace(".", "_")
        short = key.encode(errors="replace")[:_KEY_BYTES].decode(errors="ignore")
        return f"submission.{short}.{event.state}"
    return f"experiment.{event.experiment_id}.{event.state}"


def body(event: OutboxEvent) -> dict[str, Any]:
    """What an event says."""
    if event.state == SITE_EVENT:
        names = ("site", "state", "was", "reason", "by")
        said = {name: event.detail.get(name) for name in names}
        return {"event": event.id, **said, "at": event.at}
    return {
        "event": event.id,
        "experiment": event.experiment_id,
        "key": event.key or event.detail.get("key"),
        "sweep": event.sweep_id,
        "state": event.state,
        "at": event.at,
        "reason": event.detail.get("reason"),
        "again": bool(event.detail.get("again")),
    }
