"""Looking at the broker without changing anything there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from kombu import Connection

from wlm_tasks.celery import WlmCelery
from wlm_tasks.control.queues import DEAD, DEAD_QUEUE, EVENTS
from wlm_tasks.errors import ServiceError
from wlm_tasks.model.checks import mask

_NOT_FOUND: Final = 404
_CONNECT_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, kw_only=True)
class QueueLook:
    """A queue as the broker has it; the numbers are None if it is not there."""

    name: str
    messages: int | None  #: ready, not counting those in workers' hands
    consumers: int | None


@dataclass(frozen=True, kw_only=True)
class Server:
    """What the broker says of itself."""

    product: str
    version: str
    cluster: str


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """A queue or exchange that is not as it should be, in the broker's words."""

    name: str
    missing: bool
    words: str


@contextmanager
def connected(app: WlmCelery) -> Iterator[Connection]:
    """Open a connection, tried once; raises `ServiceError` if there is no way."""
    with app.connection_for_write(connect_timeout=_CONNECT_TIMEOUT_S) as connection:
        try:
            connection.connect()
        except _errors_of(connection) as error:
            text = mask(str(error)) or type(error).__name__
            raise ServiceError(f"broker {connection.as_uri()}: {text}") from error
        yield connection


def _errors_of(connection: Connection) -> tuple[type[BaseException], ...]:
    return (OSError, *connection.connection_errors, *connection.channel_errors)


def server(connection: Connection) -> Server:
    """Return what the broker said of itself when it was connected to."""
    said: dict[str, Any] = getattr(connection.connection, "server_properties", None) or {}
    return Server(
        product=str(said.get("product", "unknown")),
        version=str(said.get("version", "unknown")),
        cluster=str(said.get("cluster_name", "")),
    )


def look(app: WlmCelery, names: Sequence[str]) -> list[QueueLook]:
    """Look at queues; raises `ServiceError` if the broker is out of reach."""
    with connected(app) as connection:
        return [look_at(connection, name) for name in names]


def look_at(connection: Connection, name: str) -> QueueLook:
    """Look at one queue."""
    channel: Any = connection.channel()
    try:
        found = channel.queue_declare(queue=name, passive=True)
    except connection.channel_errors:  # which closes the channel
        return QueueLook(name=name, messages=None, consumers=None)
    channel.close()
    return QueueLook(
        name=name, messages=int(found.message_count), consumers=int(found.consumer_count)
    )


def mismatches(app: WlmCelery, connection: Connection) -> list[Mismatch]:
    """Compare queues and exchanges with how control declares them.

    The broker compares when one is declared that is there already; what is missing is not
    declared, so nothing is changed.
    """
    queues = [*app.amqp.queues.values(), DEAD_QUEUE]
    exchanges = {one.name: one for one in (*(queue.exchange for queue in queues), DEAD, EVENTS)}
    checks: list[tuple[str, Callable[[Any, bool], Any]]] = [
        (f"exchange {name}", _declare_exchange(exchange)) for name, exchange in exchanges.items()
    ]
    checks += [(f"queue {queue.name}", _declare_queue(queue)) for queue in queues]
    found = [_compare(connection, name, declare) for name, declare in checks]
    return [one for one in found if one is not None]


def _declare_exchange(exchange: Any) -> Callable[[Any, bool], Any]:
    return lambda channel, passive: exchange(channel).declare(passive=passive)


def _declare_queue(queue: Any) -> Callable[[Any, bool], Any]:
    return lambda channel, passive: queue(channel).queue_declare(passive=passive)


def _compare(
    connection: Connection, name: str, declare: Callable[[Any, bool], Any]
) -> Mismatch | None:
    channel: Any = connection.channel()
    try:
        declare(channel, True)
        declare(channel, False)
    except connection.channel_errors as error:
        missing = getattr(error, "reply_code", None) == _NOT_FOUND
        words = str(getattr(error, "reply_text", "") or error)
        return Mismatch(name=name, missing=missing, words=words)
    channel.close()
    return None
