"""The baseline: a bare Celery chain of four tasks that do nothing, set up as a careful user would.

Late ack, priorities, no result, no confirms; queues as ours, so that only the engine differs. The
last task appends one line to the ledger: a workflow counts when its own record says so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from celery import Celery, chain
from kombu import Exchange, Queue

BROKER: Final = "BARE_BROKER"
LEDGER: Final = "BARE_LEDGER"
QUEUES: Final = ("envsetup", "staging", "jobsub", "staging")


def make_app(broker: str) -> Celery:
    """A Celery app as its documentation would have it for work that must not get lost."""
    made = Celery("bare", broker=broker, set_as_current=False)
    exchange = Exchange("bare", type="direct", durable=True)
    arguments = {"x-queue-type": "classic", "x-max-priority": 10}
    made.conf.update(
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_ignore_result=True,
        task_create_missing_queues=False,
        broker_connection_retry_on_startup=True,
        task_queues=[
            Queue(name, exchange, routing_key=name, durable=True, queue_arguments=arguments)
            for name in sorted(set(QUEUES))
        ],
        task_default_queue=QUEUES[0],
        task_default_exchange="bare",
        task_default_routing_key=QUEUES[0],
    )
    return made


app: Final = make_app(os.environ.get(BROKER, "memory://"))


@app.task(name="bare.step", shared=False)
def step(_number: int) -> None:
    """Do nothing."""


@app.task(name="bare.last", shared=False)
def last(number: int) -> None:
    """Record that a workflow is finished."""
    record(number)


def record(number: int) -> None:
    """Append a line in one write; lines of several processes do not mix."""
    descriptor = os.open(os.environ[LEDGER], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(descriptor, f"{time.time():.6f} {number}\n".encode())
    finally:
        os.close(descriptor)


def workflow(sender: Celery, number: int) -> Any:
    """The chain of one workflow."""
    names = ["bare.step"] * (len(QUEUES) - 1) + ["bare.last"]
    return chain(
        *(
            sender.signature(
                name, args=(number,), immutable=True, options={"queue": queue, "priority": 4}
            )
            for name, queue in zip(names, QUEUES, strict=True)
        ),
        app=sender,
    )


def send(sender: Celery, numbers: Iterator[int] | range) -> None:
    """Send workflows over one connection."""
    with sender.producer_pool.acquire(block=True) as producer:
        for number in numbers:
            workflow(sender, number).apply_async(producer=producer)


def finished(ledger: Path) -> dict[int, float]:
    """When each workflow that is in the ledger was finished (seconds since the epoch)."""
    if not ledger.exists():
        return {}
    whole = ledger.read_text().rpartition("\n")[0]  # a line may just be being written
    lines = (line.split() for line in whole.splitlines())
    return {int(number): float(at) for at, number in lines}
