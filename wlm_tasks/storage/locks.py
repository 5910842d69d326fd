"""What keeps two transfers to one place apart; locks by name where a storage has none of its own.

These hold within this process.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from wlm_tasks.errors import StorageBusyError


def busy(place: str) -> StorageBusyError:
    """Return the error that a place is another transfer's for now."""
    return StorageBusyError(f"{place}: is being written by another transfer")


class Locks:
    """At most one holder of each name."""

    def __init__(self) -> None:
        self._held: set[str] = set()
        self._lock = Lock()

    @contextmanager
    def held(self, name: str, place: str) -> Iterator[None]:
        """Hold a name; raises `StorageBusyError` if somebody does. `place` is shown."""
        with self._lock:
            if name in self._held:
                raise busy(place)
            self._held.add(name)
        try:
            yield
        finally:
            with self._lock:
                self._held.discard(name)
