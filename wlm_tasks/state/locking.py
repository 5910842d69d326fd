"""Waiting for SQLite's write lock."""

from __future__ import annotations

import random
import sqlite3
import time
from typing import Any, Final

#: Seconds a writer waits for SQLite's single write lock.
BUSY_TIMEOUT_S: Final = 30
#: Seconds between two looks at that lock, at first and at last.
_FIRST_PAUSE_S: Final = 0.0001
_LAST_PAUSE_S: Final = 0.005


def begin_immediate(raw: Any) -> None:
    """Begin a transaction with SQLite's write lock.

    SQLite itself would soon sleep 100 ms between two looks at a lock that is mostly held for
    less than one, and whoever came first would wait longest.
    """
    end = time.monotonic() + BUSY_TIMEOUT_S
    pause_s = _FIRST_PAUSE_S
    while True:
        try:
            raw.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
        else:
            return
        time.sleep(random.uniform(0.5, 1.5) * pause_s)  # noqa: S311 - no secret
        pause_s = min(1.2 * pause_s, _LAST_PAUSE_S)
