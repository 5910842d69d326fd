"""The duties of control, each one short, safe to repeat and safe to run twice at once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from wlm_tasks.celery import WlmCelery
from wlm_tasks.control.sweep import Sweeper
from wlm_tasks.errors import ServiceError
from wlm_tasks.model.sites import SILENT
from wlm_tasks.runtime import Runtime
from wlm_tasks.scheduler.chain import send, send_system
from wlm_tasks.state.polls import SPACING
from wlm_tasks.tasks.gate import pause_before_probe
from wlm_tasks.tasks.perform import limits_of
from wlm_tasks.tasks.watching import cancel_jobs

_log = logging.getLogger(__name__)
#: Chains sent in one go; a queue of waiting work is longer than that only for a while.
BATCH = 500
#: Seconds after which a poll whose message shows no effect is asked for again.
AGAIN_AFTER_S = 30.0
#: The same for a cancel that is not confirmed: at first and at last. A cancel leaves before the
#: grace is over, so this decides how soon after it KILL is sent.
CANCEL_AGAIN_S = (3.0, 30.0)
#: How fast that grows, in parts of the time since the first.
_CANCEL_PACE = 0.1
#: More than are asked for in one go: those that wait longer must not hide the new ones.
_CANCELS_SEEN = 10 * BATCH
#: Seconds in which cancels are done here while the broker is away: in one go, and for each.
_INLINE_S = 2.0
_INLINE_WAIT_S = 0.2
#: Seconds between two warnings about that.
_QUIET_S = 30.0


@dataclass
class _Cancels:
    """When each cancel was asked for first and is to be asked for again.

    It is a matter of pace only: a control process that knows nothing of it begins anew.
    """

    times: dict[str, tuple[float, float]] = field(default_factory=dict)

    def due(self, soon: list[str], late: list[str]) -> list[str]:
        """Those to be asked for now, of the ones that were not for a few seconds and for long."""
        now = time.monotonic()
        for id_ in late:
            if self.times.get(id_, (now, now))[1] > now:
                del self.times[id_]  # the rows say so: it was cancelled anew
        return [id_ for id_ in soon if id_ not in self.times or self.times[id_][1] <= now]

    def asked(self, ids: list[str]) -> None:
        """Note that these were asked for just now, and forget the ones that are over."""
        now = time.monotonic()
        for id_ in ids:
            first = self.times.get(id_, (now, now))[0]
            soonest, latest = CANCEL_AGAIN_S
            pause = min(max((now - first) * _CANCEL_PACE, soonest), latest)
            self.times[id_] = first, now + pause
        self.times = {id_: at for id_, at in self.times.items() if at[1] > now - 2 * latest}


@dataclass
class Duties:
    """What control does, on one process's runtime and broker connection."""

    app: WlmCelery
    sweeper: Sweeper = field(init=False)
    _cancels: _Cancels = field(init=False, default_factory=_Cancels)
    _warned: float = field(init=False, default=-_QUIET_S)

    def __post_init__(self) -> None:
        """Prepare the sweeper, which remembers what it saw last time."""
        self.sweeper = Sweeper(self.app)

    @property
    def runtime(self) -> Runtime:
        """Store and sites."""
        return self.app.runtime

    def dispatch(self) -> int:
        """Send what is ready and was never sent: new work, ended back-offs, released steps."""
        sent = 0
        while ready := self.runtime.store.upkeep.unsent(BATCH):
            send(self.app, ready)
            self.runtime.store.upkeep.mark_sent(ready)
            sent += len(ready)
        return sent

    def wake(self) -> int:
        """Make steps ready whose back-off is over."""
        return self.runtime.store.upkeep.wake_due()

    def expire(self) -> int:
        """Take claims back from holders that went silent."""
        return self.runtime.store.upkeep.expire_leases(self.runtime.settings.steps.poison_after)

    def release(self) -> int:
        """Let held steps go as limits allow; returns how many were held.

        Also ends the rest of sweeps that stop on a failure.
        """
        upkeep = self.runtime.store.upkeep
        for experiment_id in upkeep.cancel_rest_of_failed_sweeps():
            self.runtime.store.intake.cancel(experiment_id, "another member of the sweep failed")
        held = upkeep.count_held()
        if held:
            sites = self.runtime.settings.sites
            if upkeep.release_held({name: limits_of(site) for name, site in sites.items()}):
                self.dispatch()
        return held

    def poll(self) -> int:
        """Ask for a poll of every site that is due; sites in trouble are tried by `probe`."""
        sites, troubled = self.runtime.settings.sites, self.runtime.store.sites.all()
        intervals = {name: site.poll_s for name, site in sites.items()}
        due = self.runtime.store.polls.due(intervals, AGAIN_AFTER_S)
        return sum(
            self._poll(site, intervals.get(site, 0.0) * SPACING)
            for site in due
            if site not in troubled or troubled[site].can_be_polled
        )

    def _poll(self, site: str, spacing_s: float = 0.0) -> bool:
        polls = self.runtime.store.polls
        # before a quick worker notes that it is done
        if not polls.sent(site, spacing_s):
            return False  # by another control process, in this moment
        try:
            send_system(self.app, "wlm.poll", [site], "monitor")
        except ServiceError as error:
            polls.done(site, error.message)
            raise
        return True

    def probe(self) -> int:
        """Find out whether sites in trouble are back: by one step each, or by a poll."""
        books, tried = self.runtime.store.sites, 0
        for row in books.to_probe():
            settings = self.runtime.settings.sites.get(row.name)
            if settings is None:
                continue  # another control process may know it
            step = books.probe(row, pause_before_probe(settings, row.state, row.probes + 1))
            if step is None:
                continue
            if step:
                self.dispatch()
            else:
                self._poll(row.name)
            tried += 1
        return tried

    def poll_rung(self, tokens: list[str]) -> None:
        """Ask for a look at jobs that rang the bell."""
        for site, settings in self.runtime.settings.sites.items():
            if settings.kind == "local":
                send_system(self.app, "wlm.poll", [site, tokens], "monitor")

    def cancel(self) -> int:
        """Have the jobs of cancelled experiments ended; here, if the broker is out of reach."""
        upkeep = self.runtime.store.upkeep
        soon = upkeep.to_cancel(CANCEL_AGAIN_S[0], _CANCELS_SEEN)
        late = upkeep.to_cancel(CANCEL_AGAIN_S[1], _CANCELS_SEEN) if soon else []
        asked: list[str] = []
        broker = True
        stop = time.monotonic() + _INLINE_S
        for experiment_id in self._cancels.due(soon, late)[:BATCH]:
            broker = broker and self._send_cancel(experiment_id)
            if not broker:
                if time.monotonic() > stop:
                    break  # the rest with the next tick: other duties wait
                cancel_jobs(self.runtime, experiment_id, wait_s=_INLINE_WAIT_S)
            asked.append(experiment_id)
        if asked:
            self._cancels.asked(asked)
            upkeep.cancel_sent(asked)
        return len(asked)

    def _send_cancel(self, experiment_id: str) -> bool:
        try:
            send_system(self.app, "wlm.cancel", [experiment_id], "monitor")
        except ServiceError as error:
            if time.monotonic() - self._warned >= _QUIET_S:
                self._warned = time.monotonic()
                _log.warning("%s: cancelling from here: %s", experiment_id, error)
            return False
        return True

    def clean(self) -> int:
        """Have the directories removed of experiments that have ended and want that."""
        cleaning, rows = self.runtime.store.cleaning, self.runtime.store.sites.all()
        silent = [name for name, row in rows.items() if row.state in SILENT]
        slice_s = self.runtime.settings.steps.slice_s
        ids = cleaning.ask(silent, slice_s=slice_s)
        for experiment_id in ids:
            send_system(self.app, "wlm.remove", [experiment_id], "envsetup", priority=0)
        return len(ids)

    def sweep(self) -> int:
        """Send again what the rows say is in a queue and is not."""
        return self.sweeper.sweep()


Duty = Callable[[], int]
