"""From ready steps to Celery chains on their queues.

A chain carries the experiment's id and nothing else; what to do stands in the rows. Its tasks get
ids that say what they are (``exp-abc.submit.1f3a``), the same on every redelivery, and the stamp
``experiment_id``, by which Flower and event consumers find the steps of one experiment.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from amqp.exceptions import AMQPError
from celery import Celery, chain
from kombu.exceptions import OperationalError

from wlm_tasks.errors import ServiceError
from wlm_tasks.model.steps import QUEUES, SYSTEM_PRIORITY, StepName, task_name
from wlm_tasks.state.advance import NextStep


def task_id(experiment_id: str, name: StepName, nonce: str) -> str:
    """The Celery task id of one step in one sent chain."""
    return f"{experiment_id}.{name}.{nonce}"


def nonce_of(message_id: str) -> str:
    """The part of a task id that all tasks of one sent chain share."""
    return message_id.rpartition(".")[2][:8]


def build_chain(app: Celery, step: NextStep, nonce: str | None = None) -> Any:
    """The chain that starts with `step` and goes on to the end of its segment."""
    nonce = nonce or secrets.token_hex(3)
    signatures = [
        app.signature(
            task_name(name),
            args=(step.experiment_id,),
            immutable=True,
            options={
                "queue": QUEUES[name],
                "priority": step.priority,
                "task_id": task_id(step.experiment_id, name, nonce),
            },
        )
        for name in step.segment
    ]
    composed = signatures[0] if len(signatures) == 1 else chain(*signatures, app=app)
    composed.stamp(experiment_id=step.experiment_id)
    return composed


def send(app: Celery, ready: Iterable[NextStep]) -> None:
    """Send the chains of these steps over one connection.

    Raises `ServiceError` if the broker is out of reach; nothing is lost by that, for control
    sends later whatever the rows say is ready.
    """
    with _broker(), app.producer_pool.acquire(block=True) as producer:
        for step in ready:
            build_chain(app, step).apply_async(producer=producer)


def send_system(app: Celery, task: str, args: Sequence[Any], queue: str) -> None:
    """Send a poll or a cancel, ahead of every experiment. Raises `ServiceError` as `send` does."""
    with _broker():
        app.send_task(task, args=tuple(args), queue=queue, priority=SYSTEM_PRIORITY)


@contextmanager
def _broker() -> Iterator[None]:
    """Tell a broker out of reach in our own words."""
    try:
        yield
    except (OperationalError, AMQPError, OSError) as error:
        raise ServiceError(f"broker: {error}") from error
