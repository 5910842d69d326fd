"""Steps that this process has done before their own messages came."""

from __future__ import annotations

import threading
import time
from typing import Final

from wlm_tasks.model.steps import StepName

#: Seconds for which a message is expected. Later it is looked at as any other.
_EXPECTED_S: Final = 2.0
_MOST: Final = 10_000


class Ahead:
    """Tells the message of a step that is done already, so that nobody asks the rows about it.

    One message is told for each time that a step was done; it need not come to this process. If
    the same step is tried again within these seconds, by a person or since its job failed, the
    message of that may be taken for the other; then control sends it again, as it does with every
    message that gets lost. Safe between threads.
    """

    def __init__(self) -> None:
        self._done: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()

    def add(self, experiment_id: str, name: StepName) -> None:
        """A step is done, and its message is still to come."""
        with self._lock:
            while len(self._done) >= _MOST:
                del self._done[next(iter(self._done))]
            self._done[experiment_id, name] = time.monotonic() + _EXPECTED_S

    def take(self, experiment_id: str, name: str) -> bool:
        """Whether this is the message that was still to come."""
        with self._lock:
            until = self._done.pop((experiment_id, name), None)
        return until is not None and time.monotonic() < until


#: Of this process. A forked child begins with what its parent had, which is nothing.
DONE_AHEAD: Final = Ahead()
