"""Signs of life: one thread per process renews the leases of all claims it holds."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from wlm_tasks.errors import ServiceError
from wlm_tasks.state.claims import Claims
from wlm_tasks.state.holders import Claim

_log = logging.getLogger(__name__)


class Heartbeat:
    """Renews claims every `every_s` seconds and flags those that were taken over."""

    def __init__(self, claims: Claims, *, every_s: float, lease_s: float) -> None:
        self._claims = claims
        self._every_s = every_s
        self._lease_s = lease_s
        self._held: dict[int, Claim] = {}
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def holding(self, *claims: Claim) -> Iterator[None]:
        """Keep claims alive during the block."""
        with self._lock:
            self._held.update((id(claim), claim) for claim in claims)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                for claim in claims:
                    del self._held[id(claim)]

    def _run(self) -> None:
        while not self._changed.wait(self._every_s):
            with self._lock:
                held = [claim for claim in self._held.values() if not claim.lost.is_set()]
            if not held:
                continue
            try:
                self._claims.renew(held, self._lease_s)
            except ServiceError as error:
                # The lease outlives several missed renewals; the next one may get through.
                _log.warning("could not renew %d claims: %s", len(held), error)
            except Exception:  # noqa: BLE001 - without this thread every lease would run out
                _log.exception("could not renew %d claims", len(held))

    def stop(self) -> None:
        """End the thread."""
        self._changed.set()
