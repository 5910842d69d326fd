"""Celery's events of steps that no message of their own started, and of how far steps are.

So Flower shows every step, and whoever listens follows transfers without asking the database.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from amqp.exceptions import AMQPError
from celery import Celery
from kombu.exceptions import OperationalError

from wlm_tasks.model.steps import QUEUES, task_name
from wlm_tasks.scheduler.chain import nonce_of, task_id
from wlm_tasks.state.holders import Claim, Holder

_log = logging.getLogger(__name__)
_QUIET_S: Final = 60.0


class Shown:
    """Sends the events a Celery task would have sent, for steps carried on by another's message."""

    def __init__(self, app: Celery, *, enabled: bool) -> None:
        self._app = app
        self._enabled = enabled
        self._quiet_until = -math.inf  #: on the monotonic clock; nothing is told of progress before

    @contextmanager
    def as_task(self, claim: Claim, holder: Holder, *, carried: bool) -> Iterator[None]:
        """Wrap the work on a step; nothing is sent unless it is carried and events are on."""
        if not (carried and self._enabled):
            yield
            return
        uuid = _task_id(claim, holder, carried=carried)
        self._send(holder, _begun(claim, holder, uuid))
        begun = time.monotonic()
        yield
        runtime_s = time.monotonic() - begun
        ended = {"uuid": uuid, "result": "None", "runtime": runtime_s}
        self._send(holder, [("task-succeeded", ended)])

    def progress(
        self, claim: Claim, holder: Holder, done: Mapping[str, int], *, carried: bool
    ) -> None:
        """Send ``task-progress`` with how far a step is, if events are on.

        While the broker is away each sending would hold up the transfer for some seconds: nothing
        is sent for a minute after one that failed.
        """
        if not self._enabled or time.monotonic() < self._quiet_until:
            return
        fields = {"uuid": _task_id(claim, holder, carried=carried), "progress": dict(done)}
        if not self._send(holder, [("task-progress", fields)]):
            self._quiet_until = time.monotonic() + _QUIET_S

    def _send(self, holder: Holder, events: Sequence[tuple[str, dict[str, Any]]]) -> bool:
        """Send events; False if the broker did not take them."""
        try:
            with self._app.events.default_dispatcher(hostname=holder.worker) as dispatcher:
                for kind, fields in events:
                    dispatcher.send(kind, **fields)  # which adds hostname and pid
        except (OperationalError, AMQPError, OSError) as error:
            # the step itself does not need the broker
            _log.warning("%s: not shown: %s", holder.message_id, error)
            return False
        return True


def _task_id(claim: Claim, holder: Holder, *, carried: bool) -> str:
    """Return the id of the step's task: that of its message, or one of its own."""
    if not carried:
        return holder.message_id
    return task_id(claim.experiment_id, claim.name, nonce_of(holder.message_id))


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
