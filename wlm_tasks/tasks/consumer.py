"""Celery's consumer, behind a check of every message.

Celery takes a message's form for granted: one that has no id, or whose body is not what it should
be, ends the worker and then the next one. It also calls whatever callbacks a message names. So
what does not have the form of our tasks goes into the queue ``wlm.dead`` before Celery sees it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from amqp.exceptions import ResourceLocked
from celery import Celery
from celery.worker.consumer import Consumer as CeleryConsumer

from wlm_tasks.celery import WlmCelery
from wlm_tasks.model.checks import show
from wlm_tasks.model.steps import StepName, task_name
from wlm_tasks.tasks.ahead import DONE_AHEAD

_log = logging.getLogger(__name__)
#: seconds between two looks whether the broker has let go of our old connection
_HELD_S: Final = 1.0
#: longest id of a task, in characters
_ID_LIMIT: Final = 255
#: what may follow in a message's chain
_NAMES: Final = {task_name(name): name for name in StepName}
_STEPS: Final = frozenset(_NAMES)
#: parts of a message that would make Celery wait, or call what the message names
_REFUSED_HEADERS: Final = ("eta", "expires")
_REFUSED_EMBEDDED: Final = ("callbacks", "errbacks", "chord")
#: headers that Celery reads, and what it takes them for
_TEXTS: Final = (
    "argsrepr", "group", "kwargsrepr", "lang", "origin", "parent_id", "root_id", "shadow",
)  # fmt: skip
_OTHERS: Final[Mapping[str, type]] = {
    "group_index": int,
    "ignore_result": bool,
    "replaced_task_nesting": int,
    "retries": int,
    "stamped_headers": list,
    "stamps": dict,
}


class Consumer(CeleryConsumer):
    """What takes messages in a worker of ours, and sends heartbeats as often as is waited for."""

    def __init__(
        self, on_task_request: Any, *, app: Celery, worker_options: Any = None, **kwargs: Any
    ) -> None:
        options = dict(worker_options or {})
        # an app of somebody else's may have our celeryconfig
        if isinstance(app, WlmCelery) and options.get("heartbeat_interval") is None:
            options["heartbeat_interval"] = app.settings.watch.beat_s
        super().__init__(on_task_request, app=app, worker_options=options, **kwargs)
        # A worker that is back sooner than the broker missed it finds its own queue still held by
        # its old connection. Celery would end it; here it connects again until that is over.
        known: tuple[type[Exception], ...] = vars(self)["connection_errors"]
        self.connection_errors = (*known, ResourceLocked)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Say why the connection is given up; the next one follows at once, or soon."""
        super().on_connection_error_after_connected(exc)
        if isinstance(exc, ResourceLocked):
            time.sleep(_HELD_S)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        """Return what is called with each message."""
        handle = super().create_task_handler(*args, **kwargs)

        # whoever watches tasks is told of the end of each, be there nothing to do
        is_watched = bool(self.app.conf.worker_send_task_events)
        connection_errors: Any = vars(self)["connection_errors"]

        def on_task_received(message: Any) -> Any:
            fault = fault_of(message)
            if fault is None:
                if not is_watched and _is_done(message):
                    return message.ack_log_error(_log, connection_errors)
                return handle(message)
            queue = (message.delivery_info or {}).get("routing_key")
            _log.error("queue %s: message rejected: %s", queue, fault)
            return message.reject_log_error(_log, connection_errors)

        return on_task_received


def _is_done(message: Any) -> bool:
    """Whether it is about a step that was done along with another; nothing is left to do then.

    Not of a redelivered one: it may be what some process had in hand when it ended.
    """
    name = _NAMES.get(message.headers["task"])
    args = message.payload[0]
    if name is None or len(args) != 1 or (message.delivery_info or {}).get("redelivered"):
        return False
    return isinstance(args[0], str) and DONE_AHEAD.take(args[0], name)


def fault_of(message: Any) -> str | None:
    """What is wrong with a message's form; None for one that can be one of ours."""
    if not isinstance(message.headers, Mapping):
        return _fault("headers", message.headers, "a table")
    if fault := _fault_of_headers(message.headers):
        return fault
    try:
        body = message.payload
    except Exception as error:  # noqa: BLE001 - whatever a decoder raises for foreign bytes
        return f"body: {type(error).__name__}, expected JSON"
    return _fault_of_body(body)


def _fault_of_headers(headers: Mapping[str, Any]) -> str | None:
    for name in ("task", "id"):
        value = headers.get(name)
        if not (isinstance(value, str) and 0 < len(value) <= _ID_LIMIT and value.isprintable()):
            return _fault(f"headers.{name}", value, "a short text")
    for name in _REFUSED_HEADERS:
        if headers.get(name) is not None:
            return _fault(f"headers.{name}", headers[name], "none: no message waits in a worker")
    if headers.get("timelimit") not in (None, [None, None]):
        return _fault("headers.timelimit", headers["timelimit"], "none")
    for name, kind in {**dict.fromkeys(_TEXTS, str), **_OTHERS}.items():
        if not isinstance(headers.get(name), kind | None):
            return _fault(f"headers.{name}", headers[name], f"{kind.__name__} or nothing")
    return None


def _fault_of_body(body: Any) -> str | None:
    kinds = (list, dict, dict)
    if not (isinstance(body, list) and len(body) == len(kinds)):
        return _fault("body", body, "a list of arguments, keywords and what is embedded")
    if not all(isinstance(part, kind) for part, kind in zip(body, kinds, strict=True)):
        return _fault("body", body, "[[...], {...}, {...}]")
    embedded = body[2]
    for name in _REFUSED_EMBEDDED:
        if embedded.get(name):
            return _fault(f"body.{name}", embedded[name], "none")
    chain = embedded.get("chain") or []
    if not isinstance(chain, list):
        return _fault("body.chain", chain, "a list")
    for link in chain:
        if not (isinstance(link, dict) and str(link.get("task")) in _STEPS):
            return _fault("body.chain", link, "a step")
    return None


def _fault(field: str, value: Any, expected: str) -> str:
    return f"{field}: got {show(value)}, expected {expected}"
