"""Waiting for a database that is out of reach."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from wlm_tasks.errors import ServiceError

_T = TypeVar("_T")


def patiently(action: Callable[[], _T], patience_s: float) -> _T:
    """Do it; while the database is out of reach try again, for `patience_s` seconds at most."""
    end = time.monotonic() + patience_s
    pause_s = 0.2
    while True:
        try:
            return action()
        except ServiceError:
            if time.monotonic() + pause_s > end:
                raise
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 5.0)
