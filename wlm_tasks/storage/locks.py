"""Locks by name within this process, for storages that have none of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from wlm_tasks.errors import StorageUnavailableError


class Locks:
    """At most one holder of each name."""

    def __init__(self) -> None:
        self._held: set[str] = set()
        self._lock = Lock()

    @contextmanager
    def held(self, name: str, place: str) -> Iterator[None]:
        """Hold a name; raises `StorageUnavailableError` if somebody does. `place` is shown."""
        with self._lock:
            if name in self._held:
                raise StorageUnavailableError(f"{place}: is being written by another transfer")
            self._held.add(name)
        try:
            yield
        finally:
            with self._lock:
                self._held.discard(name)
