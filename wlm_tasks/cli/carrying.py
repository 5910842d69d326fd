"""Waiting for experiments, and without a broker doing their work meanwhile if nobody else does."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from wlm_tasks.cli import output
from wlm_tasks.cli.looking import Look, Watched
from wlm_tasks.config import Settings
from wlm_tasks.control.lock import UpLock
from wlm_tasks.progress import Progress, summary

if TYPE_CHECKING:
    from wlm_tasks.control.embedded import Embedded

#: Seconds between two looks whether somebody else still does the work.
_CHECK_EVERY_S: Final = 1.0
_FIRST_LOOK_S, _LAST_LOOK_S = 0.05, 0.3


class Carrier:
    """Runs the embedded system in this process while nobody else does; does nothing otherwise."""

    def __init__(self, settings: Settings, *, announce: bool = True) -> None:
        self._settings = settings
        self._lock = UpLock(settings.data_dir)
        self._announce = announce
        self._embedded: Embedded | None = None
        self._check_at = 0.0

    @property
    def working(self) -> bool:
        """Whether this process does the work."""
        return self._embedded is not None

    def tick(self) -> None:
        """Take the work over if nobody has it."""
        if not self._settings.embedded or self._embedded or time.monotonic() < self._check_at:
            return
        self._check_at = time.monotonic() + _CHECK_EVERY_S
        if self._lock.holder() is not None or not self._lock.take():
            return
        if self._announce:
            output.say("No `wlm up` is running, so this command does the work itself meanwhile.")
        # Celery's worker comes with it, and most waits are for somebody else's work.
        from wlm_tasks.control.embedded import Embedded  # noqa: PLC0415

        logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(message)s")
        self._embedded = Embedded(self._settings, lock=self._lock)
        self._embedded.start()

    def __enter__(self) -> Self:
        self.tick()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._embedded is not None:
            self._embedded.stop()
        self._lock.release()


def wait(
    watched: Watched,
    *,
    title: str,
    shown: bool,
    tick: Callable[[], None],
    timeout_s: float | None = None,
) -> Look:
    """Wait until all have ended; returns the last look. Raises `TimeoutError`."""
    end = None if timeout_s is None else time.monotonic() + timeout_s
    pause_s = _FIRST_LOOK_S
    look = watched.look(detailed=False)
    with Progress(shown=shown, total=look.total, title=title, transient=True) as progress:
        while not look.ended:
            progress.update(look.states, _note(watched) if look.total == 1 else "")
            if end is not None and time.monotonic() >= end:
                now = summary(look.states, look.total)
                raise TimeoutError(f"{title}: not ended after {timeout_s:g} s: {now}")
            tick()
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.2, _LAST_LOOK_S)
            look = watched.look(detailed=False)
        progress.update(look.states)
    return look


def _note(watched: Watched) -> str:
    [row] = watched.look().rows
    return "" if row.step is None else str(row.step.name)
