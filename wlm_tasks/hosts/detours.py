"""Which hosts reach each other by themselves; needs no host, and none of what speaks with them."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Final, Protocol

#: seconds for which a way that was none is not tried again
AGAIN_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Logins:
    """Which of the hosts of a transfer logs in to the other one by itself."""

    source: bool = False
    target: bool = False


class BetweenHosts(Protocol):
    """A way of bytes that are not seen here."""

    hosts: str  #: between which, for messages


class Detours:
    """Ways that were none a moment ago, in this process, and why."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[float, str]] = {}
        self._lock = threading.Lock()

    def note(self, way: BetweenHosts, reason: str) -> None:
        """Leave a way alone for a while."""
        with self._lock:
            self._found[way.hosts] = time.monotonic() + AGAIN_S, reason

    def reason(self, way: BetweenHosts) -> str | None:
        """Return why a way is left alone for now; None if it is not."""
        with self._lock:
            until, reason = self._found.get(way.hosts, (0.0, ""))
            return reason if time.monotonic() < until else None
