"""What the broker tells of workers: their heartbeats, and the ends of their connections.

Each witness listens in a thread of its own and connects again by itself. What it knows is worth
something only from the moment on since which it listens without a break.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from amqp.exceptions import AMQPError
from kombu import Connection, Exchange, Queue
from kombu.exceptions import KombuError, OperationalError

from wlm_tasks.celery import WlmCelery
from wlm_tasks.config import Secret
from wlm_tasks.errors import ConfigError
from wlm_tasks.model.checks import one_line

_log = logging.getLogger(__name__)
#: Seconds between two tries to connect.
_AGAIN_S: Final = 1.0
_PIDBOX: Final = ".celery.pidbox"


@dataclass(frozen=True)
class Heard:
    """The last of a worker's own events. Times are of this process's monotonic clock."""

    at: float
    pid: int | None
    goodbye: bool  #: it was the one a worker sends when it stops, or loses its connection


class Listener(ABC):
    """Listens to one queue at the broker."""

    def __init__(self, name: str) -> None:
        self.since: float | None = None  #: since when it listens; None while it does not
        self.lost_at = time.monotonic()  #: since when it does not
        self.trouble: str | None = None  #: why
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """End soon."""
        self._ending.set()

    def begin_anew(self) -> None:
        """Whatever was not heard so far does not count: this process was not there to hear it."""
        if self.since is not None:
            self.since = time.monotonic()

    @abstractmethod
    def _connect(self) -> Connection: ...

    @abstractmethod
    def _consumer(self, connection: Connection) -> Any: ...

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                self._listen()
            except (OperationalError, KombuError, AMQPError, OSError, ConfigError) as error:
                self.trouble = one_line(str(error)) or type(error).__name__
            except Exception:  # noqa: BLE001 - without it everybody would be taken for dead
                _log.exception("%s broke", self._thread.name)
                self.trouble = "a fault of our own, see the log"
            if self.since is not None:
                self.since, self.lost_at = None, time.monotonic()
            self._ending.wait(_AGAIN_S)

    def _listen(self) -> None:
        with self._connect() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0)
            with self._consumer(connection):
                self.since, self.trouble = time.monotonic(), None
                while not self._ending.is_set():
                    with suppress(socket.timeout):
                        connection.drain_events(timeout=1.0)
                    connection.heartbeat_check()


class Heartbeats(Listener):
    """Celery's events of workers; those of tasks do not come here."""

    def __init__(self, app: WlmCelery) -> None:
        super().__init__("heartbeats")
        self._app = app
        self.heard: dict[str, Heard] = {}  #: by node name

    def _connect(self) -> Connection:
        connection: Connection = self._app.connection_for_read(
            heartbeat=self._app.conf.broker_heartbeat
        )
        return connection

    def _consumer(self, connection: Connection) -> Any:
        receiver = self._app.events.Receiver(connection, routing_key="worker.#")
        return connection.Consumer(
            receiver.queue, callbacks=[self._take], no_ack=True, accept=["json"]
        )

    def _take(self, body: Any, _message: Any) -> None:
        for event in body if isinstance(body, list) else [body]:
            if not isinstance(event, Mapping):
                continue
            name, pid = event.get("hostname"), event.get("pid")
            if isinstance(name, str):
                goodbye = event.get("type") == "worker-offline"
                self.heard[name] = Heard(
                    time.monotonic(), pid if isinstance(pid, int) else None, goodbye
                )


class BrokerEvents(Listener):
    """The broker's own events: a worker's queue goes away with its connection, at once.

    They are on the exchange ``amq.rabbitmq.event`` of the plugin ``rabbitmq_event_exchange``, which
    is in the virtual host ``/`` and tells of all of them.
    """

    def __init__(self, url: Secret, vhost: str, heartbeat_s: float) -> None:
        super().__init__("broker-events")
        self._url = url
        self._vhost = vhost
        self._heartbeat_s = heartbeat_s
        self.gone: dict[str, float] = {}  #: when a worker's queue was removed, by node name

    def _connect(self) -> Connection:
        return Connection(self._url.reveal(), heartbeat=self._heartbeat_s)

    def _consumer(self, connection: Connection) -> Any:
        exchange = Exchange("amq.rabbitmq.event", type="topic", passive=True)
        queue = Queue("", exchange, routing_key="queue.deleted", exclusive=True, auto_delete=True)
        return connection.Consumer(queue, callbacks=[self._take], no_ack=True)

    def _take(self, _body: Any, message: Any) -> None:
        headers = message.headers if isinstance(message.headers, Mapping) else {}
        name = str(headers.get("name", ""))
        if headers.get("vhost") == self._vhost and name.endswith(_PIDBOX):
            self.gone[name.removesuffix(_PIDBOX)] = time.monotonic()
