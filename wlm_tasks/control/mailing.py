"""Sending notices: what waits in the database, and what waits in files while that is away.

Each notifier has a thread of its own, so that a mail server that hangs holds up nobody else. Of
all control processes one sends by each notifier, the holder of its lease; a batch that it had
begun when it was killed is sent again by the next one, with the same id.
"""

from __future__ import annotations

import logging
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final

from wlm_tasks.celery import WlmCelery
from wlm_tasks.config import Settings
from wlm_tasks.control.turns import Turns
from wlm_tasks.errors import NotifyRefusedError, NotifyUnavailableError, ServiceError, WlmError
from wlm_tasks.model.checks import mask
from wlm_tasks.model.notices import Notice, NoticeKind, Severity
from wlm_tasks.notify.base import Notifier
from wlm_tasks.notify.pacing import Pace, Waiting, plan
from wlm_tasks.notify.spool import Spool
from wlm_tasks.notify.words import Letterhead, compose
from wlm_tasks.state.deliveries import Batch, Deliveries
from wlm_tasks.state.store import Store

_log = logging.getLogger(__name__)
#: Seconds between two looks.
_EVERY_S: Final = 1.5
#: Seconds that a batch is this process's own, and between two renewals of that while it is sent.
_HOLD_S: Final = 20.0
_RENEW_S: Final = 5.0
#: Seconds until a message that was refused is tried again, and how often it may be refused.
_REFUSED_S: Final = 1800.0
_REFUSALS: Final = 48
#: Most notices that are looked at in one go.
_MANY: Final = 2000
#: Seconds between two warnings of one kind.
_QUIET_S: Final = 60.0


class Away:
    """Tells that the database is away, without it: by a file, and by every notifier at once."""

    def __init__(self, settings: Settings, notifiers: Mapping[str, Notifier]) -> None:
        self._grace_s = settings.watch.grace_s
        self._head = letterhead(settings)
        self._notifiers = notifiers
        self._spool = Spool(Path(settings.data_dir) / "notices")
        self._since: float | None = None  #: when it failed first, by the monotonic clock
        self._told: Notice | None = None
        self._left: dict[str, float] = {}  #: who has not been told, and when to try again

    def database_fails(self, reason: str) -> None:
        """It failed once more; tells when that has lasted as long as it does for a worker."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since < self._grace_s:
            return
        if self._told is None:
            at, host = time.time() - (now - self._since), socket.gethostname()
            self._told = Notice(
                key=f"database:{host}:{int(at)}",
                kind=NoticeKind.DATABASE_DOWN,
                subject="",
                at=time.time(),
                # others may reach it all the same
                detail={"reason": f"seen from {host}: {reason}", "since": at},
            )
            self._left = dict.fromkeys(self._notifiers, 0.0)
            self._keep(self._told)
        for name in [name for name, due in self._left.items() if due <= now]:
            self._tell(name, self._told)

    def _keep(self, notice: Notice) -> None:
        try:
            self._spool.put(notice)
        except WlmError as error:
            _log.warning("%s", error.message)

    def _tell(self, name: str, notice: Notice) -> None:
        try:
            self._notifiers[name].send(compose([notice], self._head))
        except Exception as error:  # noqa: BLE001 - another's notifier may raise what it likes
            _log.warning("%s: not told that the database is away: %s", name, error)
            self._left[name] = time.monotonic() + _QUIET_S
        else:
            del self._left[name]

    def database_answers(self) -> None:
        """It is back, or was never away."""
        self._since = None

    def hand_over(self, store: Store) -> None:
        """Write what was kept in files to the database, for those who were not told yet."""
        told = self._told
        with self._spool.take() as notices:
            for notice in notices:
                known = told is not None and told.key == notice.key
                store.incidents.tell(notice, list(self._left if known else self._notifiers))
        if self._since is None:
            self._told = None


class Mailer:
    """Sends by one notifier, in a thread of its own."""

    def __init__(self, app: WlmCelery, holder: str, name: str, notifier: Notifier) -> None:
        self._app = app
        self._name = name
        self._lease = f"mail:{name}"
        self._turns = Turns(app.runtime.store.coordination, holder, app.settings.control.lease_s)
        self._notifier = notifier
        self._settings = app.settings.alerts
        self._head = letterhead(app.settings)
        self._pace = Pace(digest_s=self._settings.digest_s)
        self._singles: deque[float] = deque(maxlen=100)  #: when single alarms went out
        self._unrecorded: Batch | None = None  #: sent, and not written down yet
        self._warned = -_QUIET_S
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"mail-{name}", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """End, after the message that is under way."""
        self._ending.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        while not self._ending.wait(_EVERY_S):
            try:
                self._work()
            except ServiceError as error:
                self._warn(error.message)
            except Exception:  # noqa: BLE001 - what waits must go out in the end
                _log.exception("mailer %s broke", self._name)

    def _work(self) -> None:
        """Bind what may go out, and send what is due."""
        deliveries = self._app.runtime.store.deliveries
        if self._unrecorded is not None:
            deliveries.sent(self._unrecorded)
            self._unrecorded = None
        if not deliveries.any_open(self._name) or not self._turns.mine(self._lease):
            return
        self._bind(deliveries)
        while not self._ending.is_set():
            batch = deliveries.claim(self._name, hold_s=_HOLD_S)
            if batch is None:
                return
            self._record(deliveries, batch, self._sent(batch))

    def _bind(self, deliveries: Deliveries) -> None:
        waiting = deliveries.waiting(self._name, _MANY)
        if not waiting:
            return
        now = time.time()
        ids = {one.notice.key: one.id for one in waiting}
        critical = {one.notice.key for one in waiting if one.notice.severity is Severity.CRITICAL}
        found = plan(
            [
                Waiting(
                    key=one.notice.key,
                    kind=one.notice.kind,
                    severity=one.notice.severity,
                    since=now - one.waits_s,
                    ends=one.notice.ends,
                )
                for one in waiting
            ],
            now,
            self._pace,
            self._singles,
        )
        for keys in found.batches:
            if len(keys) == 1 and keys[0] in critical:
                self._singles.append(now)
            # whoever sends it, and however often: the message's own id comes from its notices
            batch = f"{ids[keys[0]]}-{secrets.token_hex(8)}"
            deliveries.bind(self._name, [ids[key] for key in keys], batch)

    def _sent(self, batch: Batch) -> WlmError | None:
        """Send a batch and keep it as long as that takes; returns what went wrong."""
        faults: list[WlmError] = []

        def send() -> None:
            try:
                self._notifier.send(compose(batch.notices, self._head))
            except WlmError as error:
                faults.append(error)
            except Exception as error:  # noqa: BLE001 - another's notifier may raise what it likes
                _log.exception("notifier %s broke", self._name)
                faults.append(NotifyUnavailableError(f"unexpected {type(error).__name__}"))

        sending = threading.Thread(target=send, name=f"send-{self._name}", daemon=True)
        sending.start()
        sending.join(_RENEW_S)
        while sending.is_alive():
            with suppress(ServiceError):
                self._turns.mine(self._lease)
                self._app.runtime.store.deliveries.hold(batch, _HOLD_S)
            sending.join(_RENEW_S)
        return faults[0] if faults else None

    def _record(self, deliveries: Deliveries, batch: Batch, fault: WlmError | None) -> None:
        if fault is None:
            self._unrecorded = batch  # should the database be away now
            deliveries.sent(batch)
            self._unrecorded = None
        elif not isinstance(fault, NotifyRefusedError):
            self._warn(fault.message)
            pause_s = self._settings.retry_s * 2.0 ** min(batch.tries - 1, 30)
            pause_s = min(pause_s, self._settings.retry_max_s)
            deliveries.put_off(batch, fault.message, pause_s=pause_s)
        elif batch.tries < _REFUSALS:
            # a server that is set up wrongly refuses what it takes once that is mended
            self._warn(fault.message)
            deliveries.put_off(batch, fault.message, pause_s=_REFUSED_S)
        else:
            _log.error("%s: refused for good: %s", self._name, fault.message)
            deliveries.refused(batch, fault.message)

    def _warn(self, message: str) -> None:
        if time.monotonic() - self._warned >= _QUIET_S:
            self._warned = time.monotonic()
            _log.warning("%s: %s", self._name, message)


def letterhead(settings: Settings) -> Letterhead:
    """What all messages of an installation have in common: its database makes it one."""
    where = mask(settings.database)
    return Letterhead(
        domain=settings.alerts.sender_domain,
        installation=sha256(where.encode()).hexdigest()[:12],
        dashboard_url=settings.alerts.dashboard_url,
    )


def mailers(app: WlmCelery, holder: str, notifiers: Mapping[str, Notifier]) -> Sequence[Mailer]:
    """Make a mailer for each notifier."""
    return [Mailer(app, holder, name, notifier) for name, notifier in notifiers.items()]
