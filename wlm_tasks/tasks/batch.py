"""Steps that one slot works on one after another and records together.

A step that takes a millisecond would spend most of its time on transactions of its own, and on a
disk. So a slot claims several like ones at once, as many as it expects to be done with in a
moment, and what they share is one transaction for each step of the way. Nobody waits long for
that: what takes longer than expected is left alone with its slot, and the others are recorded or
given back by `Relief`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from wlm_tasks.model.steps import StepName
from wlm_tasks.tasks.recorder import Result
from wlm_tasks.tasks.work import Work

_log = logging.getLogger(__name__)
#: Seconds of work that are claimed at once.
_AT_ONCE_S: Final = 0.02
#: How fast it is believed that steps have become quicker; that they have become slower, at once.
_BELIEF: Final = 0.2
#: Seconds after which others are not kept waiting for a step, and between two looks.
_PATIENCE_S: Final = 0.1
_LOOK_S: Final = 0.05


class Pace:
    """How long steps of each kind take on each site. Safe between threads."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._took_s: dict[tuple[str, StepName], float] = {}

    def took(self, site: str, name: StepName, seconds: float) -> None:
        """Take in how long one took."""
        before = self._took_s.get((site, name), seconds)
        self._took_s[site, name] = max(seconds, before + _BELIEF * (seconds - before))

    def room(self, site: str, name: StepName) -> int:
        """How many such steps fit into a moment; one of which nothing is known yet."""
        took_s = self._took_s.get((site, name))
        if took_s is None:
            return 1
        return max(1, min(self._most, int(_AT_ONCE_S / max(took_s, 1e-6))))


class Batch:
    """The steps of one round: those that wait, the one in hand, those that are done."""

    def __init__(self, works: Sequence[Work]) -> None:
        self.size: Final = len(works)
        self._waiting = deque(works)
        self._done: list[tuple[Work, Result]] = []
        self._lock = threading.Lock()
        self._since = time.monotonic()  #: when the one in hand was begun

    def next(self) -> Work | None:
        """Take the next step in hand."""
        with self._lock:
            self._since = time.monotonic()
            return self._waiting.popleft() if self._waiting else None

    def did(self, work: Work, result: Result) -> None:
        """Put down the step in hand."""
        with self._lock:
            self._done.append((work, result))

    def put_back(self, work: Work) -> None:
        """Put the step in hand back in front of those that wait."""
        with self._lock:
            self._waiting.appendleft(work)

    @property
    def is_late(self) -> bool:
        """Whether the one in hand keeps others waiting."""
        keeps = bool(self._waiting or self._done)
        return keeps and time.monotonic() - self._since > _PATIENCE_S

    def take_done(self) -> list[tuple[Work, Result]]:
        """What is to be recorded; whoever takes it sees to that."""
        with self._lock:
            done, self._done = self._done, []
            return done

    @contextmanager
    def taking_done(self) -> Iterator[list[tuple[Work, Result]]]:
        """What is to be recorded; it is there again if the block fails."""
        done = self.take_done()
        try:
            yield done
        except BaseException:
            with self._lock:
                self._done += done
            raise

    @contextmanager
    def taking_waiting(self) -> Iterator[list[Work]]:
        """What is not begun; it waits again if the block fails."""
        with self._lock:
            waiting = list(self._waiting)
            self._waiting.clear()
        try:
            yield waiting
        except BaseException:
            with self._lock:
                self._waiting.extend(waiting)
            raise


class Relief:
    """A thread that takes away from a slow step what waits for it."""

    def __init__(self, relieve: Callable[[Batch], None]) -> None:
        self._relieve = relieve
        self._batches: set[Batch] = set()
        self._lock = threading.Lock()
        self._wanted = threading.Event()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def watching(self, batch: Batch) -> Iterator[None]:
        """Watch over a batch during the block."""
        if batch.size == 1:
            yield
            return
        with self._lock:
            self._batches.add(batch)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="relief", daemon=True)
                self._thread.start()
        self._wanted.set()
        try:
            yield
        finally:
            with self._lock:
                self._batches.discard(batch)

    def _run(self) -> None:
        while not self._stopped.wait(_LOOK_S):
            with self._lock:
                late = [batch for batch in self._batches if batch.is_late]
                if not self._batches:
                    self._wanted.clear()
            for batch in late:
                try:
                    self._relieve(batch)
                except Exception:  # noqa: BLE001 - who has the slow one does it in the end
                    _log.exception("steps that wait for a slow one were not given back")
            self._wanted.wait()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._wanted.set()
        if self._thread is not None:
            self._thread.join(timeout=5.0)
