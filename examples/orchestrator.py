"""Hand in an experiment and follow it by AMQP messages alone, with nothing of wlm_tasks installed.

    pip install kombu
    export ORCHESTRATOR_BROKER=amqp://wlm-orchestrator:PASSWORD@mq/wlm
    python orchestrator.py hello.toml --key hello-1 --param who=you

Submitting is one Celery message (protocol 2) for the task ``wlm.schedule`` on the queue
``scheduler``; its keyword arguments are those of ``schedule_experiment``. Every change of state
comes back on the durable topic exchange ``wlm.events`` as ``experiment.<id>.<STATE>``, a refusal
as ``submission.<key>.REJECTED``. A key that was used before starts nothing new, and events wait in
a durable queue that bears the key, so this program may be killed at any time and run again: it
goes on where it was. (Of an experiment whose end it has already seen it hears nothing more.)
"""

from __future__ import annotations

import argparse
import os
import sys
import tomllib
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from amqp.exceptions import AMQPError
from kombu import Connection, Exchange, Message, Producer, Queue
from kombu.exceptions import KombuError

FINAL = {"DONE": 0, "FAILED": 1, "CANCELLED": 1, "REJECTED": 1}  #: last states, our exit codes
WEEK_MS = 7 * 24 * 3600 * 1000


def task_message(experiment: dict[str, Any], **options: Any) -> tuple[Any, dict[str, Any]]:
    """Body and headers of the message that asks for an experiment."""
    task_id = str(uuid.uuid4())
    body = [[experiment], options, {"callbacks": None, "errbacks": None, "chain": None}]
    headers = {"lang": "py", "task": "wlm.schedule", "id": task_id, "root_id": task_id}
    return body, headers


def submit(connection: Connection, exchange: str, body: Any, headers: dict[str, Any]) -> None:
    """Publish the message; return when the broker has it, fail if it goes to no queue."""
    returned: list[str] = []
    producer = Producer(
        connection.channel(), on_return=lambda error, *_: returned.append(str(error))
    )
    producer.publish(
        body,
        exchange=exchange,
        routing_key="scheduler",
        headers=headers,
        correlation_id=headers["id"],
        serializer="json",
        delivery_mode=2,  # survives a restart of the broker
        mandatory=True,
        priority=9,  # of this message only; the experiment has its own
    )
    if returned:
        raise KombuError(f"no queue takes this message: {returned[0]}")


class Follower:
    """Takes the events of one key until the experiment has ended."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.exit_code: int | None = None
        exchange = Exchange("wlm.events", type="topic", durable=True, passive=True)
        self.queue = Queue(
            f"orchestrator.{key}", exchange, "#", durable=True, expires=WEEK_MS / 1000
        )

    def __call__(self, event: dict[str, Any], message: Message) -> None:
        """Show an event if it is ours; take it off the queue in any case."""
        if event["key"] == self.key:
            state = str(event["state"])
            line = f"{event['experiment'] or self.key}  {state}  {event['reason'] or ''}"
            sys.stdout.write(line.rstrip() + "\n")
            sys.stdout.flush()
            self.exit_code = FINAL.get(state)
        message.ack()

    def follow(self, connection: Connection, timeout: float) -> int:
        """Wait for the end; `TimeoutError` after so many seconds without any event."""
        with connection.Consumer([self.queue], callbacks=[self], accept=["json"]):
            while self.exit_code is None:
                connection.drain_events(timeout=timeout)
        self.queue(connection.default_channel).delete()
        return self.exit_code


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point: 0 if the experiment is DONE, 1 if it ended otherwise or the broker failed."""
    parser = argparse.ArgumentParser(description="submit and follow one experiment by messages")
    parser.add_argument("file", type=Path, help="TOML file of the experiment")
    parser.add_argument("--key", required=True, help="your own name for this run, used once")
    parser.add_argument("--param", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--exchange", default="wlm.schedule", help='or "wlm", on a bare broker')
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds without any event")
    chosen = parser.parse_args(arguments)
    experiment = tomllib.loads(chosen.file.read_text(encoding="utf-8"))
    params = dict(item.partition("=")[::2] for item in chosen.param)
    body, headers = task_message(experiment, key=chosen.key, params=params)
    url = os.environ.get("ORCHESTRATOR_BROKER", "amqp://guest@127.0.0.1//")
    follower = Follower(chosen.key)
    try:
        with Connection(url, transport_options={"confirm_publish": True}) as connection:
            # first the queue, then the message: no event can come before there is a place for it
            follower.queue(connection.default_channel).declare()
            submit(connection, chosen.exchange, body, headers)
            return follower.follow(connection, chosen.timeout)
    except (AMQPError, KombuError, OSError) as error:
        sys.stderr.write(f"orchestrator.py: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
