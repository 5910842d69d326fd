"""A worker's signs of life: who it is, that it lives, that it is to stop, that it ends.

All of it is written by a thread of the worker's main process, so nothing here holds up Celery's
loop, whatever the database does. A worker that is killed writes nothing: others find that out.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final

from amqp.exceptions import AMQPError
from celery import signals
from kombu.exceptions import OperationalError

from wlm_tasks import __version__
from wlm_tasks.celery import WlmCelery
from wlm_tasks.cluster.agent import SerfAgent
from wlm_tasks.cluster.launch import agents_directory
from wlm_tasks.cluster.tags import Role, WorkerAttributes, load_bucket
from wlm_tasks.cluster.tags import WorkerState as TaggedState
from wlm_tasks.errors import WlmError
from wlm_tasks.state.roster import Registration
from wlm_tasks.state.store import Store

_log = logging.getLogger(__name__)
#: Seconds that a worker which stops waits until that is written.
_STOPPING_S: Final = 2.0
_GOODBYE_S: Final = 8.0
#: Seconds of them that its agent gets to tell the others.
_LEAVE_S: Final = 4.0
_AGAIN_S: Final = 0.5
#: Seconds between two warnings about a database that is away.
_QUIET_S: Final = 60.0

#: No child may be forked while a connection to SQLite is open: it would take its locks for its own.
_forking = threading.Lock()
os.register_at_fork(
    before=_forking.acquire, after_in_parent=_forking.release, after_in_child=_forking.release
)


class Presence:
    """The signs of life of one worker process."""

    def __init__(self, app: WlmCelery, worker: Registration) -> None:
        self.worker = worker
        self._app = app
        self._store = Store(app.settings.database)
        self._beat_s = app.settings.watch.beat_s
        self._agent = _agent(app, worker)
        self._load = 0
        self._registered = False
        self._drained = False
        self._warned = -_QUIET_S
        self._stopping, self._ending = threading.Event(), threading.Event()
        self._told = threading.Event()
        # a signal handler may put something in while its own thread is just doing so
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="presence", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        if self._agent is not None:
            self._agent.start()
        self._thread.start()

    def beat(self) -> None:
        """The main loop is alive: it has just sent a heartbeat."""
        self._wake.put(None)

    def stopping(self) -> None:
        """Say that this worker finishes what it has; returns once that is written, or soon."""
        self._stopping.set()
        self._wake.put(None)
        self._told.wait(_STOPPING_S)

    def end(self) -> None:
        """Say that this worker ends; returns once that is written, or soon."""
        self._ending.set()
        self._wake.put(None)
        self._thread.join(_GOODBYE_S)

    def _run(self) -> None:
        while not self._ending.is_set():
            begun = time.monotonic()
            self._attempt(self._sign)
            self._gossip()
            self._pause(begun)
        last = time.monotonic() + _GOODBYE_S - _LEAVE_S
        while not self._attempt(self._goodbye) and time.monotonic() < last:
            time.sleep(_AGAIN_S)
        if self._agent is not None:
            self._agent.leave(_LEAVE_S)

    def _gossip(self) -> None:
        """Have Serf tell what is to be known of this worker; what has not changed is not told."""
        if self._agent is not None:
            drains = self._stopping.is_set() or self._drained
            self._agent.set_tags(_gossiped(self.worker, load=self._load, drains=drains))

    def _pause(self, begun: float) -> None:
        """Wait for a beat of the main loop, or this thread's own while that is busy."""
        if self._urgent:  # the database did not take it
            self._ending.wait(_AGAIN_S)
            return
        soonest, latest = begun + self._beat_s * 0.8, begun + self._beat_s * 1.2
        while not self._urgent:
            try:
                self._wake.get(timeout=max(0.0, latest - time.monotonic()))
            except Empty:
                return
            if time.monotonic() >= soonest:
                return
            latest = soonest  # it has come early

    @property
    def _urgent(self) -> bool:
        return self._ending.is_set() or (self._stopping.is_set() and not self._told.is_set())

    def _attempt(self, write: Callable[[Store], None]) -> bool:
        """Write something; False if that did not work."""
        try:
            self._write(write)
        except WlmError as error:
            if time.monotonic() - self._warned >= _QUIET_S:
                self._warned = time.monotonic()
                _log.warning("roster: %s", error.message)
            return False
        except Exception:  # noqa: BLE001 - without this thread the worker would be taken for dead
            _log.exception("roster: signs of life broke")
            return False
        return True

    def _write(self, write: Callable[[Store], None]) -> None:
        if not self._store.database.is_sqlite:
            write(self._store)
            return
        with _forking:
            try:
                write(self._store)
            finally:
                self._store.database.close()

    def _sign(self, store: Store) -> None:
        worker, roster = self.worker, store.roster
        if not self._registered:
            roster.register(worker)
            self._registered = True
        if self._stopping.is_set() and not self._told.is_set():
            drain_s = self._app.settings.watch.drain_s
            roster.stopping(worker.name, worker.incarnation, within_s=drain_s)
            self._told.set()
        self._load = load_bucket(os.getloadavg()[0] / (os.cpu_count() or 1), self._load)
        drains = roster.refresh(worker.name, worker.incarnation, load=self._load)
        if drains is None:  # removed as one that left long ago
            self._registered = False
        elif not self._stopping.is_set():
            self._follow(drains=drains)

    def _goodbye(self, store: Store) -> None:
        if self._registered:
            announced = self._stopping.is_set()
            store.roster.gone(self.worker.name, self.worker.incarnation, announced=announced)

    def _follow(self, *, drains: bool) -> None:
        """Take no messages while an operator drains this worker, and take them again after."""
        consumes = bool(self._app.amqp.queues.consume_from)
        if drains == self._drained and consumes is not drains:
            return
        control = self._app.control
        change = control.cancel_consumer if drains else control.add_consumer
        try:
            for queue in self.worker.queues:
                change(queue, destination=[self.worker.name])
        except (OperationalError, AMQPError, OSError) as error:
            _log.warning("roster: consumers not changed yet: %s", error)
            return
        self._drained = drains


def registration(app: WlmCelery, consumer: Any) -> Registration:
    """Who a worker is that has just begun."""
    controller = consumer.controller
    return Registration(
        name=consumer.hostname,
        incarnation=secrets.token_hex(4),
        host=socket.gethostname(),
        pid=os.getpid(),
        queues=sorted(str(name) for name in app.amqp.queues.consume_from),
        attributes={
            "version": __version__,
            "pool": controller.pool_cls.__module__.rpartition(".")[2],
            "slots": controller.concurrency,
            "heartbeats": not controller.options.get("without_heartbeat"),
            "cpus": os.cpu_count() or 1,
            "memory_mb": _memory_mb(),
            "gpus": _gpus(app),
            "capabilities": list(app.settings.worker.capabilities),
            "zone": app.settings.worker.zone,
            "serf": app.settings.serf.enabled,
        },
    )


def _agent(app: WlmCelery, worker: Registration) -> SerfAgent | None:
    """The worker's own agent of Serf, if that is in use."""
    if not app.settings.serf.enabled:
        return None
    directory = agents_directory(app.settings)
    return SerfAgent(app.settings.serf, directory, _gossiped(worker, load=0, drains=False))


def _gossiped(worker: Registration, *, load: int, drains: bool) -> WorkerAttributes:
    traits = worker.attributes
    return WorkerAttributes(
        role=Role.WORKER,
        name=worker.name,
        incarnation=worker.incarnation,
        state=TaggedState.DRAINING if drains else TaggedState.UP,
        version=traits["version"],
        queues=tuple(worker.queues),
        capabilities=tuple(traits["capabilities"]),
        cpus=traits["cpus"],
        memory_mb=traits["memory_mb"],
        gpus=traits["gpus"],
        slots=traits["slots"],
        load=load,
        zone=traits["zone"] or "",
    )


def _memory_mb() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20


def _gpus(app: WlmCelery) -> int:
    told = app.settings.worker.gpus
    return len(list(Path("/dev").glob("nvidia[0-9]*"))) if told is None else told


# -- Celery's signals ----------------------------------------------------------------------

_present: dict[int, Presence] = {}  #: that of this process, by its id: a forked child has none


def _mine() -> Presence | None:
    return _present.get(os.getpid())


@signals.worker_ready.connect
def _ready(sender: Any = None, **_kwargs: Any) -> None:
    app = getattr(sender, "app", None)
    if not isinstance(app, WlmCelery) or app.settings.embedded:
        return
    presence = Presence(app, registration(app, sender))
    _present[os.getpid()] = presence
    presence.start()


@signals.heartbeat_sent.connect
def _beat(**_kwargs: Any) -> None:
    if presence := _mine():
        presence.beat()


@signals.worker_shutting_down.connect
def _stopping(**_kwargs: Any) -> None:
    if presence := _mine():
        presence.stopping()


@signals.worker_shutdown.connect
def _ended(**_kwargs: Any) -> None:
    if presence := _mine():
        presence.end()
