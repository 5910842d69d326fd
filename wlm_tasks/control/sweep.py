"""The sweeper: finds messages that are gone, without sending again what merely waits.

For each queue two numbers are compared: the messages in it (M) and the ready steps whose message
was sent some time ago (R). M is read first; steps are claimed in between, so R can only be too
small. With R > M at least R - M messages are gone. RabbitMQ hands out messages of one priority
in the order they came, so the candidates are the R - M steps sent longest ago. A message that is
just on its way from the queue to a worker is not counted by either side, so a step is sent again
only if it was a candidate at the sweep before as well. If the wrong one is sent again (some
message in the middle was lost) the duplicate is harmless, M never exceeds R, and once the queue
has drained that far the lost ones are the oldest.
"""

from __future__ import annotations

import logging

from wlm_tasks.celery import WlmCelery
from wlm_tasks.control.queues import declare, depths
from wlm_tasks.model.steps import ALL_QUEUES, STEP_QUEUES
from wlm_tasks.scheduler.chain import send
from wlm_tasks.state.upkeep import SentStep

_log = logging.getLogger(__name__)


def missing(messages: int, waiting: int) -> int:
    """How many messages are certainly gone from a queue."""
    return max(0, waiting - messages)


class Sweeper:
    """Remembers the candidates of the last sweep."""

    def __init__(self, app: WlmCelery) -> None:
        self._app = app
        self._suspects: dict[str, set[SentStep]] = {}

    def sweep(self) -> int:
        """Look at every queue once; returns how many chains were sent again."""
        found = depths(self._app, ALL_QUEUES)
        if None in found.values():
            declare(self._app)
        return sum(self._sweep(queue, found[queue]) for queue in STEP_QUEUES)

    def _sweep(self, queue: str, messages: int | None) -> int:
        upkeep = self._app.runtime.store.upkeep
        grace_s = self._app.settings.control.grace_s
        gone = missing(messages or 0, upkeep.count_sent(queue, grace_s))
        suspects = set(upkeep.oldest_sent(queue, grace_s, gone)) if gone else set()
        # A queue that was not there held nothing; no second look is needed to be sure of that.
        confirmed = suspects if messages is None else suspects & self._suspects.get(queue, set())
        self._suspects[queue] = suspects - confirmed
        if not confirmed:
            return 0
        again = upkeep.send_again(sorted(confirmed, key=lambda step: step.sent_at))
        if again:
            _log.warning("queue %s: messages gone and sent again: %d", queue, len(again))
            send(self._app, again)
            upkeep.mark_sent(again)
        return len(again)
