"""The control process: wakes on the bell or by the clock and does what is due.

Any number of control processes may run. Each duty has a lease in the database, and only its
holder does it; when a holder dies its leases run out and another takes over.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from dataclasses import dataclass

from wlm_tasks import plugins
from wlm_tasks.bell import Bell
from wlm_tasks.celery import WlmCelery
from wlm_tasks.control import outbox, queues
from wlm_tasks.control.duties import Duties, Duty
from wlm_tasks.control.mailing import Away, Mailer, mailers
from wlm_tasks.control.turns import Turns
from wlm_tasks.control.watch import Watcher
from wlm_tasks.errors import WlmError

_log = logging.getLogger(__name__)
#: Seconds between two warnings about the same failing duty.
_QUIET_S = 30.0
#: Seconds between looks while steps are held, or directories were to be removed: what falls free, a
#: slot or one of a site's few places for removals, is soon used.
_HURRY_S = {"release": 0.1, "clean": 0.5}
#: But so many times as long as one takes.
_CALM = 20
#: Seconds between looks for directories to be removed: nobody waits for that.
_CLEAN_S = 3.0


@dataclass
class _Scheduled:
    name: str
    duty: Duty
    every_s: float
    due: float = 0.0
    warned: float = -_QUIET_S


class Control:
    """One control process, or one control thread of the embedded system."""

    def __init__(self, app: WlmCelery) -> None:
        self._app = app
        self._settings = app.settings.control
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
        self._duties = Duties(app)
        self._stop = threading.Event()
        self._bell = Bell(app.runtime.bells)
        self._notifiers = plugins.notifiers(app.settings.alerts)
        self._scheduled = self._plan()
        self._mailers = mailers(app, self._holder, self._notifiers)
        away = Away(app.settings, self._notifiers)
        embedded = app.settings.embedded  # there is no worker to lose but this process
        self._watcher = (
            None if embedded else Watcher(app, self._holder, list(self._notifiers), away)
        )
        coordination = app.runtime.store.coordination
        self._turns = Turns(coordination, self._holder, self._settings.lease_s)

    def _plan(self) -> list[_Scheduled]:
        tick_s, duties = self._settings.tick_s, self._duties
        plan = [
            _Scheduled("wake", duties.wake, tick_s),
            _Scheduled("expire", duties.expire, tick_s),
            _Scheduled("release", duties.release, tick_s),
            _Scheduled("dispatch", self._dispatch, tick_s),
            _Scheduled("cancel", duties.cancel, tick_s),
            _Scheduled("poll", duties.poll, tick_s),
            _Scheduled("probe", duties.probe, tick_s),
            _Scheduled("publish", lambda: outbox.publish(self._app, list(self._notifiers)), tick_s),
            _Scheduled("clean", duties.clean, max(tick_s, _CLEAN_S)),
            _Scheduled("sweep", duties.sweep, self._settings.sweep_s),
        ]
        if not self._app.settings.embedded:
            plan.append(_Scheduled("declare", self._declare, 30.0))
        return plan

    def _dispatch(self) -> int:
        return self._duties.dispatch()

    def _declare(self) -> int:
        queues.declare(self._app)
        return 0

    def run(self) -> None:
        """Work until `stop` is called."""
        _log.info("control %s is at work", self._holder)
        for thread in self._threads:
            thread.start()
        try:
            while not self._stop.is_set():
                self._round(self._bell.wait(self._until_due()))
        finally:
            self._bell.close()
            for thread in self._threads:
                thread.stop()
            try:
                self._app.runtime.store.coordination.release(self._holder)
            except WlmError as error:
                _log.warning("leases not given back: %s", error.message)

    @property
    def _threads(self) -> list[Watcher | Mailer]:
        return [*self._mailers, *([self._watcher] if self._watcher else [])]

    def stop(self) -> None:
        """End `run` soon; safe from any thread and from a signal handler."""
        self._stop.set()
        self._bell.wake()

    def _until_due(self) -> float:
        return max(0.0, min(one.due for one in self._scheduled) - time.monotonic())

    def _round(self, rung: list[str]) -> None:
        tokens = [word for word in rung if word.startswith("wlm-")]
        if tokens:
            self._attempt(_Scheduled("rung", lambda: self._rung(tokens), 0.0))
        now = time.monotonic()
        for one in self._scheduled:
            if rung or one.due <= now:
                begun = time.monotonic()
                one.due = begun + one.every_s
                if self._attempt(one) and one.name in _HURRY_S:
                    took_s = time.monotonic() - begun
                    one.due = min(one.due, begun + max(_HURRY_S[one.name], took_s * _CALM))

    def _rung(self, tokens: list[str]) -> int:
        self._duties.poll_rung(tokens)
        return len(tokens)

    def _attempt(self, one: _Scheduled) -> int:
        try:
            if one.name == "rung" or self._turns.mine(one.name):
                return one.duty()
        except WlmError as error:
            self._warn(one, error.message)
        except Exception:  # noqa: BLE001 - one broken duty must not take the others down
            _log.exception("duty %s broke", one.name)
        return 0

    def _warn(self, one: _Scheduled, message: str) -> None:
        if time.monotonic() - one.warned >= _QUIET_S:
            one.warned = time.monotonic()
            _log.warning("duty %s: %s", one.name, message)
