"""Who is alive: listening all the time, deciding while it is this process's turn.

Every control process listens; the one that holds the lease ``watch`` decides. One that cannot
reach the broker gives the lease up, so that another one that sees more may take it.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from typing import Any, Final

from wlm_tasks import __version__
from wlm_tasks.celery import WlmCelery
from wlm_tasks.cluster.agent import SerfAgent
from wlm_tasks.cluster.launch import SPOOL, agents_directory
from wlm_tasks.cluster.members import Membership
from wlm_tasks.cluster.tags import Role, WorkerAttributes
from wlm_tasks.control.fleet import Fleet
from wlm_tasks.control.mailing import Away
from wlm_tasks.control.second_path import SecondPath
from wlm_tasks.control.sights import Evidence
from wlm_tasks.control.surroundings import Surroundings
from wlm_tasks.control.turns import Turns
from wlm_tasks.control.witnesses import BrokerEvents, Heartbeats
from wlm_tasks.errors import ServiceError, WlmError
from wlm_tasks.model.notices import NoticeKind
from wlm_tasks.state.incidents import BROKER

_log = logging.getLogger(__name__)
_LEASE: Final = "watch"
#: Seconds between two looks while all is well, and while something is going on.
_CALM_S: Final = 2.0
_BUSY_S: Final = 1.0
#: Seconds between two looks after which this process was not there itself.
_ABSENT_S: Final = 6.0
#: Seconds without a broker after which another process may decide, and how long it gets.
_YIELD_S: Final = 5.0
_YIELDED_S: Final = 4.0
#: Seconds between two looks at sites and queues, and at what can be forgotten.
_SURROUNDINGS_S: Final = 10.0
_FORGET_EVERY_S: Final = 3600.0
_FORGET_S: Final = 7 * 86_400.0
_KEEP_S: Final = 90 * 86_400.0
#: Seconds between two warnings of one kind.
_QUIET_S: Final = 60.0


class Watcher:
    """Watches the workers in a thread of its own; `holder` is who this process is for leases."""

    def __init__(self, app: WlmCelery, holder: str, notifiers: list[str], away: Away) -> None:
        self._app = app
        lease_s = app.settings.control.lease_s
        self._turns = Turns(app.runtime.store.coordination, holder, lease_s)
        self._settings = app.settings.watch
        self._notifiers = notifiers
        self._away = away
        self._heartbeats = Heartbeats(app)
        self._broker_events = _broker_events(app)
        self._agent, self._members = _serf(app, holder)
        self._second_path = SecondPath(agents_directory(app.settings) / SPOOL)
        self._database_since = time.monotonic()
        self._last_look = time.monotonic()
        self._yield_until = self._surroundings_at = self._forget_at = self._warned = 0.0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._heartbeats.start()
        if self._broker_events is not None:
            self._broker_events.start()
        if self._agent is not None and self._members is not None:
            self._agent.start()
            self._members.start()
        self._thread.start()

    def stop(self) -> None:
        """End, after the look that is under way."""
        self._ending.set()
        self._heartbeats.stop()
        if self._broker_events is not None:
            self._broker_events.stop()
        self._thread.join(5.0)
        if self._agent is not None and self._members is not None:
            self._members.close()
            self._agent.leave()

    def _run(self) -> None:
        pause_s = _CALM_S
        while not self._ending.wait(pause_s):
            try:
                pause_s = self._round()
            except Exception:  # noqa: BLE001 - without this thread nobody is told of anything
                _log.exception("watch broke")

    def _round(self) -> float:
        """Look once, if it is this process's turn; returns the seconds until the next time."""
        self._see_to_own_absence()
        pause_s = _CALM_S
        try:
            if self._may_decide() and self._look():
                pause_s = _BUSY_S
            self._away.database_answers()
            self._away.hand_over(self._app.runtime.store)
        except ServiceError as error:
            self._database_since = time.monotonic()
            self._away.database_fails(error.message)
            self._warn(error.message)
        except WlmError as error:
            self._warn(error.message)
        self._last_look = time.monotonic()  # a look that took long is no absence
        return pause_s

    def _see_to_own_absence(self) -> None:
        """Trust nothing that was not heard because this process itself stood still."""
        now = time.monotonic()
        if now - self._last_look > _ABSENT_S:
            self._database_since = now
            self._heartbeats.begin_anew()
        self._last_look = now

    def _may_decide(self) -> bool:
        """Take or keep the lease, unless another process may see more than this one."""
        now = time.monotonic()
        if now < self._yield_until:
            self._app.runtime.store.coordination.clock()  # whether it answers is to be known
            return False
        if not self._turns.mine(_LEASE):
            return False
        if self._heartbeats.since is None and now - self._heartbeats.lost_at > _YIELD_S:
            self._tell_of_broker()
            self._turns.give_up(_LEASE)
            self._yield_until = now + _YIELDED_S
        return True

    def _look(self) -> int:
        store, now = self._app.runtime.store, time.monotonic()
        fleet = Fleet(
            store,
            self._settings,
            self._notifiers,
            poison_after=self._app.settings.steps.poison_after,
        )
        if self._members is not None:
            self._second_path.read()
        changes = fleet.look(self._evidence(now))
        if self._heartbeats.since is not None:
            self._broker_is_back()
        if now >= self._surroundings_at:
            self._surroundings_at = now + _SURROUNDINGS_S
            Surroundings(self._app, self._notifiers).look()
        if now >= self._forget_at:
            self._forget_at = now + _FORGET_EVERY_S
            store.roster.forget(_FORGET_S)
            store.deliveries.forget(_KEEP_S)
        if changes:
            self._app.runtime.wake()
        return changes

    def _evidence(self, now: float) -> Evidence:
        events = self._broker_events
        return Evidence(
            now=now,
            patience_s=self._settings.patience_s,
            database_since=self._database_since,
            heartbeats_since=self._heartbeats.since,
            heard=dict(self._heartbeats.heard),
            queues_since=None if events is None else events.since,
            queues_gone={} if events is None else dict(events.gone),
            serf=None if self._members is None else self._members.snapshot(),
            noted=self._second_path.noted,
        )

    def _tell_of_broker(self) -> None:
        """Tell that no message can be sent, once that has lasted as long as for a worker."""
        away_s = time.monotonic() - self._heartbeats.lost_at
        if away_s < self._settings.grace_s:
            return
        detail = {"reason": self._heartbeats.trouble, "since": time.time() - away_s}
        incidents = self._app.runtime.store.incidents
        incidents.open(BROKER, "", NoticeKind.BROKER_DOWN, detail, self._notifiers)

    def _broker_is_back(self) -> None:
        incidents = self._app.runtime.store.incidents
        if any(incident.kind == BROKER for incident in incidents.now_open()):
            incidents.close(BROKER, "", NoticeKind.BROKER_BACK, {}, self._notifiers)

    def _warn(self, message: str) -> None:
        if time.monotonic() - self._warned >= _QUIET_S:
            self._warned = time.monotonic()
            _log.warning("watch: %s", message)


def _broker_events(app: WlmCelery) -> BrokerEvents | None:
    url = app.settings.watch.broker_events_url
    if url is None:
        return None
    vhost: Any = app.connection_for_read().virtual_host
    return BrokerEvents(url, str(vhost), app.conf.broker_heartbeat)


def _serf(app: WlmCelery, holder: str) -> tuple[SerfAgent | None, Membership | None]:
    settings = app.settings.serf
    if not settings.enabled:
        return None, None
    attributes = WorkerAttributes(
        role=Role.CONTROL,
        name=f"control@{socket.gethostname()}",
        incarnation=holder.rpartition(":")[2],
        version=__version__,
    )
    agent = SerfAgent(settings, agents_directory(app.settings), attributes)
    return agent, Membership(agent.connect)
