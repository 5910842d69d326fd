"""Events for steps that no message of their own started, so that Flower shows every step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery

from wlm_tasks.model.steps import QUEUES, task_name
from wlm_tasks.scheduler.chain import nonce_of, task_id
from wlm_tasks.state.claims import Claim, Holder


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
        common: dict[str, Any] = {"uuid": uuid}  # the dispatcher adds hostname and pid
        with self._app.events.default_dispatcher(hostname=holder.worker) as dispatcher:
            dispatcher.send(
                "task-received",
                name=task_name(claim.name),
                args=repr((claim.experiment_id,)),
                kwargs="{}",
                routing_key=QUEUES[claim.name],
                root_id=claim.experiment_id,
                parent_id=holder.message_id,
                retries=0,
                eta=None,
                expires=None,
                **common,
            )
            dispatcher.send("task-started", **common)
            begun = time.monotonic()
            yield
            dispatcher.send(
                "task-succeeded", result="None", runtime=time.monotonic() - begun, **common
            )
