"""Events for steps that no message of their own started, so that Flower shows every step."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from amqp.exceptions import AMQPError
from celery import Celery
from kombu.exceptions import OperationalError

from wlm_tasks.model.steps import QUEUES, task_name
from wlm_tasks.scheduler.chain import nonce_of, task_id
from wlm_tasks.state.claims import Claim, Holder

_log = logging.getLogger(__name__)


class Shown:
    """Sends the events a Celery task would have sent, for steps carried on by another's message."""

    def __init__(self, app: Celery, *, enabled: bool) -> None:
        self._app = app
        self._enabled = enabled

    @contextmanager
    def as_task(self, claim: Claim, holder: Holder, *, carried: bool) -> Iterator[None]:
        """Wrap the work on a step; nothing is sent unless it is carried and events are on."""
        if not (carried and self._enabled):
            yield
            return
        uuid = task_id(claim.experiment_id, claim.name, nonce_of(holder.message_id))
        self._send(holder, _begun(claim, holder, uuid))
        begun = time.monotonic()
        yield
        runtime_s = time.monotonic() - begun
        ended = {"uuid": uuid, "result": "None", "runtime": runtime_s}
        self._send(holder, [("task-succeeded", ended)])

    def _send(self, holder: Holder, events: Sequence[tuple[str, dict[str, Any]]]) -> None:
        try:
            with self._app.events.default_dispatcher(hostname=holder.worker) as dispatcher:
                for kind, fields in events:
                    dispatcher.send(kind, **fields)  # which adds hostname and pid
        except (OperationalError, AMQPError, OSError) as error:
            # the step itself does not need the broker
            _log.warning("%s: not shown: %s", holder.message_id, error)


def _begun(claim: Claim, holder: Holder, uuid: str) -> list[tuple[str, dict[str, Any]]]:
    received = {
        "uuid": uuid,
        "name": task_name(claim.name),
        "args": repr((claim.experiment_id,)),
        "kwargs": "{}",
        "routing_key": QUEUES[claim.name],
        "root_id": claim.experiment_id,
        "parent_id": holder.message_id,
        "retries": 0,
        "eta": None,
        "expires": None,
    }
    return [("task-received", received), ("task-started", {"uuid": uuid})]
