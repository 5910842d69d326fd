"""Connections kept open for sending small messages.

For each message Celery's pool hands out a producer, kombu binds the exchange anew and watches for
a retry: more work than writing the message. A line is a channel that is used as it is. Before it
is used again a look at its socket tells whether the broker has closed it meanwhile, which a write
alone would not notice.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from amqp.exceptions import AMQPError
from celery import Celery
from kombu.common import maybe_declare
from kombu.exceptions import OperationalError

#: What a broker out of reach raises.
BROKER_ERRORS: Final = (OperationalError, AMQPError, OSError)


class Line:
    """One connection with one channel, for one thread at a time."""

    def __init__(self, app: Celery) -> None:
        self._connection: Any = app.connection_for_write()
        self._connection.ensure_connection(max_retries=1, interval_start=0)
        self._channel: Any = self._connection.default_channel
        # kept: asking kombu for it may connect anew
        self._wire: Any = getattr(self._channel, "connection", None)

    def publish(
        self, body: str, exchange: str, routing_key: str, declare: Any = (), **message: Any
    ) -> None:
        """Send one message; `message` as for a channel's ``prepare_message``."""
        for entity in declare:
            maybe_declare(entity, self._channel)
        prepared = self._channel.prepare_message(body, **message)
        self._channel.basic_publish(prepared, exchange=exchange, routing_key=routing_key)

    @property
    def quiet(self) -> bool:
        """False once the broker has said something, which can only be that the line is closed."""
        if not self._connection.connected:
            return False
        sock = getattr(self._wire, "sock", None)
        if sock is None:  # in memory
            return True
        poll = select.poll()
        try:
            poll.register(sock, select.POLLIN)
        except (OSError, ValueError):  # closed on this side
            return False
        return not poll.poll(0)

    def close(self) -> None:
        """Close the connection, whatever its state."""
        with suppress(*BROKER_ERRORS):
            self._connection.release()
        # a broker that has gone away does not answer the good-bye: then the socket is still open
        collect = getattr(self._wire, "collect", None)
        if collect is not None:
            collect()


class Lines:
    """The lines of one process; as many as threads send at the same time."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._idle: list[Line] = []
        policy = app.conf.task_publish_retry_policy
        self._tries = 1 + int(policy["max_retries"])
        self._pauses = policy["interval_start"], policy["interval_step"], policy["interval_max"]

    def use(self, send: Callable[[Line], None]) -> None:
        """Call `send` with a line; once more with a new one if the broker is out of reach.

        How often is Celery's ``task_publish_retry_policy``. What was sent before the fault may
        be sent twice. Raises the last of `BROKER_ERRORS`.
        """
        for left in reversed(range(self._tries)):
            try:
                line = self._take()
                self._send(line, send)
            except BROKER_ERRORS:
                if not left:
                    raise
                self._pause(self._tries - left - 1)
            else:
                return

    def _send(self, line: Line, send: Callable[[Line], None]) -> None:
        try:
            send(line)
        except BaseException:
            line.close()
            raise
        self._idle.append(line)

    def _take(self) -> Line:
        with suppress(IndexError):  # asking first would be a race against other threads
            while True:
                line = self._idle.pop()
                if line.quiet:
                    return line
                line.close()
        return Line(self._app)

    def _pause(self, number: int) -> None:
        start, step, longest = self._pauses
        time.sleep(min(start + number * step, longest))

    def close(self) -> None:
        """Close the lines that nobody uses."""
        with suppress(IndexError):
            while True:
                self._idle.pop().close()
