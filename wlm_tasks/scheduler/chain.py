"""From ready steps to Celery chains on their queues.

A chain carries the experiment's id and nothing else; what to do stands in the rows. Its tasks get
ids that say what they are (``exp-abc.submit.1f3a``), the same on every redelivery, and the stamp
``experiment_id``, by which Flower and event consumers find the steps of one experiment.

Composing and serializing a chain costs Celery more than a worker needs to record a step, and two
chains of the same steps differ in a few ids only. So a chain is composed once for each run of
steps, and its message is kept with blanks where those ids go (`_Form`).
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, Final

from celery import Celery, chain, signals

from wlm_tasks.errors import ServiceError
from wlm_tasks.model.steps import QUEUES, SYSTEM_PRIORITY, StepName, task_name
from wlm_tasks.scheduler.lines import BROKER_ERRORS, Line, Lines
from wlm_tasks.state.advance import NextStep


@dataclass(frozen=True)
class Parent:
    """The message whose task sends the next one."""

    message_id: str
    root_id: str


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


def send(app: Celery, ready: Iterable[NextStep], parent: Parent | None = None) -> None:
    """Send the chains of these steps over one connection; `parent` goes on with its own chain.

    Raises `ServiceError` if the broker is out of reach; nothing is lost by that, for control
    sends later whatever the rows say is ready.
    """
    steps = [
        (step, secrets.token_hex(3) if parent is None else nonce_of(parent.message_id))
        for step in ready
    ]
    if not steps:
        return
    with _broker():
        if _somebody_listens(app):
            with app.producer_pool.acquire(block=True) as producer:
                for step, nonce in steps:
                    _publish(build_chain(app, step, nonce), parent, producer)
            return

        def send_all(line: Line) -> None:
            for step, nonce in steps:
                form = _form(app, step.segment, step.priority)
                form.send(line, step.experiment_id, nonce, parent)

        _lines(app).use(send_all)


def send_system(
    app: Celery, task: str, args: Sequence[Any], queue: str, *, priority: int = SYSTEM_PRIORITY
) -> None:
    """Send a poll or a cancel, ahead of every experiment, or what has another priority.

    Raises `ServiceError` as `send` does.
    """
    with _broker():
        app.send_task(task, args=tuple(args), queue=queue, priority=priority)


def _somebody_listens(app: Celery) -> bool:
    """Whether Celery itself has to send: for an event or a signal, it fills in more."""
    return bool(
        app.conf.task_send_sent_event
        or signals.before_task_publish.receivers
        or signals.after_task_publish.receivers
    )


def _publish(composed: Any, parent: Parent | None, producer: Any) -> None:
    """Have Celery send a chain: the message of its first task carries the rest, last one first."""
    tasks = list(getattr(composed, "tasks", [composed]))
    ids = {} if parent is None else {"parent_id": parent.message_id, "root_id": parent.root_id}
    tasks[0].apply_async(chain=tasks[:0:-1] or None, producer=producer, **ids)


#: What stands for the ids in a form.
_BLANKS: Final = {name: f"@{name}@" for name in ("experiment", "nonce", "parent", "root")}
_BLANK: Final = re.compile("|".join(_BLANKS.values()))


class _Form:
    """The message of a run of steps, to be filled in with ids and sent."""

    def __init__(self, app: Celery, segment: tuple[StepName, ...], priority: int) -> None:
        step = NextStep(_BLANKS["experiment"], segment, priority)
        recorder = _Recorder()
        parent = Parent(_BLANKS["parent"], _BLANKS["root"])
        _publish(build_chain(app, step, _BLANKS["nonce"]), parent, recorder)
        body, sent = recorder.sent
        self._first = segment[0]
        self._declare = sent["declare"]
        self._where = sent["exchange"], sent["routing_key"]
        self._body = json.dumps(body)
        self._own = json.dumps({name: sent[name] for name in ("headers", "correlation_id")})
        self._priority = sent["priority"]
        self._properties = {name: sent[name] for name in ("delivery_mode", "reply_to")}

    def send(self, line: Line, experiment_id: str, nonce: str, parent: Parent | None) -> None:
        """Publish the message."""
        root = task_id(experiment_id, self._first, nonce) if parent is None else parent.root_id
        ids = {
            _BLANKS["experiment"]: experiment_id,
            _BLANKS["nonce"]: nonce,
            _BLANKS["parent"]: "" if parent is None else parent.message_id,
            _BLANKS["root"]: root,
        }
        words = {blank: json.dumps(value)[1:-1] for blank, value in ids.items()}
        own = json.loads(_fill(self._own, words))
        if parent is None:
            own["headers"]["parent_id"] = None
        line.publish(
            _fill(self._body, words),
            *self._where,
            self._declare,
            priority=self._priority,
            content_type="application/json",
            content_encoding="utf-8",
            headers=own["headers"],
            properties={**self._properties, "correlation_id": own["correlation_id"]},
        )
        self._declare = ()  # once is enough: control and workers see to it that queues are there


def _fill(text: str, words: dict[str, str]) -> str:
    return _BLANK.sub(lambda found: words[found[0]], text)


class _Recorder:
    """A producer that keeps what it is to publish."""

    connection = SimpleNamespace(_reraise_as_library_errors=nullcontext)

    def publish(self, body: Any, **options: Any) -> None:
        self.sent = body, options


@lru_cache(maxsize=256)
def _form(app: Celery, segment: tuple[StepName, ...], priority: int) -> _Form:
    return _Form(app, segment, priority)


#: The lines of each app and process. A forked child must not use its parent's, nor drop them:
#: whoever drops a connection ends it for both.
_LINES: Final[dict[tuple[Celery, int], Lines]] = {}


def _lines(app: Celery) -> Lines:
    key = app, os.getpid()
    return _LINES.get(key) or _LINES.setdefault(key, Lines(app))


def hang_up(app: Celery) -> None:
    """Close what `send` keeps open; sending afterwards opens it again."""
    lines = _LINES.pop((app, os.getpid()), None)
    if lines is not None:
        lines.close()


@contextmanager
def _broker() -> Iterator[None]:
    """Tell a broker out of reach in our own words."""
    try:
        yield
    except BROKER_ERRORS as error:
        raise ServiceError(f"broker: {error}") from error
