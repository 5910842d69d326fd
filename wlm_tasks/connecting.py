"""Connections of this process with sites that allow the fleet a few only.

A process that wants to speak to such a site takes a place first, keeps it while it has work there
and a little longer, and then ends its connection and gives the place back.
"""

from __future__ import annotations

import logging
import os
import random
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from wlm_tasks.config import SiteSettings
from wlm_tasks.errors import ServiceError
from wlm_tasks.state.connections import ConnectionLeases

_log = logging.getLogger(__name__)
#: Seconds for which a place is held without a sign of life.
TTL_S: Final = 60.0
#: Seconds without work after which a place is given back.
IDLE_S: Final = 5.0
_LOOK_S: Final = 1.0
#: Seconds before who was refused asks again, with a crowd of so many twice as long, and at most.
_AGAIN_S: Final = (1.0, 3.0)
_CROWD: Final = 10
_SLOWEST_S: Final = 60.0


@dataclass
class _Place:
    """A place this process holds; times are of the monotonic clock."""

    site: str  #: one of those that are reached by it
    renewed_at: float
    used_at: float
    users: int = 0


class Connections:
    """The places of one process. Safe between threads, not to be forked.

    Sites on the same host, port and user share their connection, and so their places.
    """

    def __init__(
        self,
        sites: Mapping[str, SiteSettings],
        leases: Callable[[], ConnectionLeases],
        close: Callable[[str], None],
    ) -> None:
        self._lines = {name: line_of(site) for name, site in sites.items()}
        self._most: dict[str, int] = {}
        for name, site in sites.items():
            if site.max_connections is not None:
                line = self._lines[name]
                self._most[line] = min(site.max_connections, self._most.get(line, 1_000_000))
        self._leases = leases
        self._close = close
        self._holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
        self._places: dict[str, _Place] = {}
        self._refused: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def using(self, site: str, *, watching: bool = False) -> Iterator[str | None]:
        """Be connected with a site during the block; gives the reason if that is not allowed now.

        The last of several places is for those who watch jobs, so that long transfers never keep
        a site from being polled. Raises `ServiceError` if the database is out of reach.
        """
        line = self._lines.get(site, "")
        if line not in self._most:
            yield None
            return
        if not self._enter(line, site, watching=watching):
            yield f"site {site}: has as many connections as it may ({self._most[line]})"
            return
        try:
            yield None
        finally:
            self._leave(line)

    def pause_s(self, site: str) -> float:
        """Seconds before a step that was refused asks again; longer the more of them were."""
        refused = self._refused[self._lines[site]]
        spread = random.uniform(*_AGAIN_S)  # noqa: S311 - no secret
        return min(spread * (1 + refused / _CROWD), _SLOWEST_S)

    def _enter(self, line: str, site: str, *, watching: bool) -> bool:
        with self._lock:
            now = time.monotonic()
            place = self._places.get(line)
            if place is None:
                most = self._most[line] if watching else max(self._most[line] - 1, 1)
                if not self._leases().take(line, most, self._holder, TTL_S):
                    self._refused[line] += 1
                    return False
                self._refused[line] = 0
                place = self._places[line] = _Place(site=site, renewed_at=now, used_at=now)
                self._watch()
            place.users += 1
            return True

    def _leave(self, line: str) -> None:
        with self._lock:
            if (place := self._places.get(line)) is not None:
                place.users -= 1
                place.used_at = time.monotonic()

    def _watch(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="connections", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_S):
            try:
                self.look()
            except ServiceError as error:
                # a place outlives several missed renewals
                _log.warning("connections not renewed: %s", error.message)
            except Exception:  # noqa: BLE001 - without this thread every place would run out
                _log.exception("connections not renewed")

    def look(self) -> None:
        """Renew the places in use, give back those that are not."""
        with self._lock:
            now = time.monotonic()
            for line, place in list(self._places.items()):
                if not place.users and now - place.used_at >= IDLE_S:
                    self._give_back(line, place)
                elif now - place.renewed_at >= TTL_S / 4:
                    place.renewed_at = now
                    if not self._leases().renew(line, self._holder, TTL_S):
                        _log.warning("a connection's place on %s was lost", line)

    def _give_back(self, line: str, place: _Place) -> None:
        del self._places[line]
        self._close(place.site)
        self._leases().give_back(line, self._holder)

    def close(self) -> None:
        """Give back all places; nobody may be connected any more."""
        self._stop.set()
        with self._lock:
            for line, place in list(self._places.items()):
                try:
                    self._give_back(line, place)
                except ServiceError as error:
                    _log.warning("a connection's place was not given back: %s", error.message)


def line_of(site: SiteSettings) -> str:
    """What a site's connections go to: sites of the same host and user share them."""
    host = site.options.get("host")
    if host is None:
        return f"site {site.name}"
    return f"{site.options.get('user', '')}@{host}:{site.options.get('port', 22)}"[:255]
