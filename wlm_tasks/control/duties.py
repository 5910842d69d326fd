"""The duties of control, each one short, safe to repeat and safe to run twice at once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from wlm_tasks.celery import WlmCelery
from wlm_tasks.control.sweep import Sweeper
from wlm_tasks.errors import ServiceError
from wlm_tasks.runtime import Runtime
from wlm_tasks.scheduler.chain import send, send_system
from wlm_tasks.tasks.watching import cancel_jobs

_log = logging.getLogger(__name__)
#: Chains sent in one go; a queue of waiting work is longer than that only for a while.
BATCH = 500
#: Seconds after which a poll or a cancel whose message shows no effect is asked for again.
AGAIN_AFTER_S = 30.0


@dataclass
class Duties:
    """What control does, on one process's runtime and broker connection."""

    app: WlmCelery
    sweeper: Sweeper = field(init=False)

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
            limits = {name: site.max_running for name, site in self.runtime.settings.sites.items()}
            if upkeep.release_held(limits):
                self.dispatch()
        return held

    def poll(self) -> int:
        """Ask for a poll of every site that is due."""
        intervals = {name: site.poll_s for name, site in self.runtime.settings.sites.items()}
        coordination = self.runtime.store.coordination
        due = coordination.sites_to_poll(intervals, AGAIN_AFTER_S)
        for site in due:
            coordination.poll_sent(site)  # before a quick worker notes that it is done
            try:
                send_system(self.app, "wlm.poll", [site], "monitor")
            except ServiceError as error:
                coordination.poll_done(site, error.message)
                raise
        return len(due)

    def poll_rung(self, tokens: list[str]) -> None:
        """Ask for a look at jobs that rang the bell."""
        for site, settings in self.runtime.settings.sites.items():
            if settings.kind == "local":
                send_system(self.app, "wlm.poll", [site, tokens], "monitor")

    def cancel(self) -> int:
        """Have the jobs of cancelled experiments ended; here, if the broker is out of reach."""
        upkeep = self.runtime.store.upkeep
        ids = upkeep.to_cancel(AGAIN_AFTER_S)
        for experiment_id in ids:
            try:
                send_system(self.app, "wlm.cancel", [experiment_id], "monitor")
            except ServiceError as error:
                _log.warning("%s: cancelling from here: %s", experiment_id, error)
                cancel_jobs(self.runtime, experiment_id)
        if ids:
            upkeep.cancel_sent(ids)
        return len(ids)

    def sweep(self) -> int:
        """Send again what the rows say is in a queue and is not."""
        return self.sweeper.sweep()


Duty = Callable[[], int]
