"""What Serf's handlers have written down: evidence while our own agent cannot be asked."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wlm_tasks.cluster.gossip import EventKind
from wlm_tasks.cluster.spool import SpoolBatch
from wlm_tasks.cluster.tags import Role, parse

_log = logging.getLogger(__name__)
_LIMIT: Final = 10_000


@dataclass(frozen=True)
class Noted:
    """The last that a handler was told of a worker; `at` by this process's monotonic clock."""

    kind: EventKind
    at: float


class SecondPath:
    """Empties the spool of this host's handlers. One process at a time may do so."""

    def __init__(self, spool: Path) -> None:
        self._spool = spool
        self.noted: dict[tuple[str, str], Noted] = {}  #: by name and incarnation

    def read(self) -> None:
        """Take what was written since the last time; what cannot be read is tried again."""
        try:
            batch = SpoolBatch.take(self._spool)
            batch.done()
        except OSError as error:
            _log.warning("Serf's spool: %s", error.strerror)
            return
        ahead = time.monotonic() - time.time()
        for record in batch.records:
            told = parse(record.tags)
            if told is not None and told.role is Role.WORKER:
                self.noted[(told.name, told.incarnation)] = Noted(
                    record.event, min(record.time + ahead, time.monotonic())
                )
        for key in list(self.noted)[:-_LIMIT]:
            del self.noted[key]
