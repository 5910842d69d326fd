"""Whose turn a duty is: leases of one process, asked of the database only when half is over."""

from __future__ import annotations

import time

from wlm_tasks.state.coordination import Coordination


class Turns:
    """The leases of one holder. Not to be shared by threads."""

    def __init__(self, coordination: Coordination, holder: str, lease_s: float) -> None:
        self._coordination = coordination
        self._holder = holder
        self._lease_s = lease_s
        self._held: dict[str, float] = {}

    def mine(self, name: str) -> bool:
        """Take or keep the lease of this name; raises `ServiceError` if nobody can tell."""
        asked = time.monotonic()
        if asked < self._held.get(name, 0.0):
            return True
        if not self._coordination.acquire(name, self._holder, self._lease_s):
            self._held.pop(name, None)
            return False
        self._held[name] = asked + self._lease_s / 2
        return True

    def give_up(self, name: str) -> None:
        """Let another take it at once."""
        self._held.pop(name, None)
        self._coordination.release_one(name, self._holder)
