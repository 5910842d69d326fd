"""Everything in one process: broker in memory, worker threads, control, SQLite.

The order of work does not depend on the in-memory broker, which knows no priorities: a message
is only a hint, and a worker thread claims the most urgent step that is ready.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from wlm_tasks.celery import WlmCelery, app, broker_url
from wlm_tasks.config import Settings
from wlm_tasks.control.lock import UpLock
from wlm_tasks.control.loop import Control
from wlm_tasks.errors import ConfigError
from wlm_tasks.model.steps import ALL_QUEUES
from wlm_tasks.tasks.steps import StepTask

_log = logging.getLogger(__name__)


def slots() -> int:
    """Worker threads: one per core and one more, since steps wait more than they compute."""
    return (os.cpu_count() or 1) + 1


class Embedded:
    """Worker and control of the embedded system, in threads of this process.

    It is alone on its data directory: it holds the directory's lock until `stop`, or uses one
    that its maker holds. Raises `ConfigError` if another process has it.
    """

    def __init__(
        self, settings: Settings, concurrency: int | None = None, lock: UpLock | None = None
    ) -> None:
        if not settings.embedded:
            raise ConfigError(
                "broker_url: is set, so workers and control are processes of their own; "
                "start `celery -A wlm_tasks worker` and `wlm control`"
            )
        self._lock = lock or _take_lock(settings)
        try:
            self._prepare(settings, concurrency)
        except BaseException:
            if lock is None:
                self._lock.release()
            raise

    def _prepare(self, settings: Settings, concurrency: int | None) -> None:
        self._app: WlmCelery = app
        app.use(settings)
        app.set_default()  # pool threads look for it there
        app.conf.worker_redirect_stdouts = False
        app.conf.worker_hijack_root_logger = False
        app.runtime.store.database.upgrade()
        # the messages of an earlier process died with it, and so did its claims and its polls
        app.runtime.store.upkeep.forget_sent()
        app.runtime.store.polls.forget()
        self._control = Control(app)
        self._worker = app.WorkController(
            pool="threads",
            concurrency=concurrency or slots(),
            queues=list(ALL_QUEUES),
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            optimization="fair",
            loglevel="WARNING",
        )
        self._threads = [
            threading.Thread(target=self._control.run, name="control", daemon=True),
            threading.Thread(target=self._worker.start, name="worker", daemon=True),
        ]

    def start(self) -> None:
        """Start working; returns at once."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Finish the steps in hand, or their slices, and stop."""
        self._app.runtime.stopping.set()
        self._control.stop()
        self._worker.stop(in_sighandler=False)
        for thread in self._threads:
            thread.join(timeout=30)
        StepTask.end_engine()
        self._app.runtime.close()
        self._lock.release()

    @property
    def broker(self) -> str:
        """Where its messages are."""
        return broker_url(self._app.settings)


def _take_lock(settings: Settings) -> UpLock:
    lock = UpLock(settings.data_dir)
    if not lock.take():
        raise ConfigError(
            f"data_dir: process {lock.holder() or '?'} does the work of {settings.data_dir} "
            "already; stop it, or set another data_dir"
        )
    return lock


@contextmanager
def running(settings: Settings, concurrency: int | None = None) -> Iterator[Embedded]:
    """The embedded system, at work during the block."""
    embedded = Embedded(settings, concurrency)
    embedded.start()
    try:
        yield embedded
    finally:
        embedded.stop()
