"""How many threads of a process may have streams on one connection."""

from __future__ import annotations

import threading
from typing import Final

from wlm_tasks.errors import SiteOverloadedError
from wlm_tasks.hosts.address import Address

#: most threads with streams on one connection: two streams each leave room for commands
STREAMING: Final = 3
#: longest wait for that, in seconds: a slice of another's transfer
_STREAM_WAIT_S: Final = 600.0


class StreamGate:
    """Bounds how many threads have streams on one connection; a thread may have several.

    A transfer between two places of one host holds two channels for long and needs more for a
    moment. If as many began as there are channels, each would wait for those of the others.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._free = threading.Semaphore(STREAMING)
        self._held = threading.local()

    def enter(self) -> None:
        """Let this thread have one more; raises `SiteOverloadedError` after a long wait."""
        held = getattr(self._held, "count", 0)
        if not held and not self._free.acquire(timeout=_STREAM_WAIT_S):
            raise SiteOverloadedError(
                f"{self._address}: as many transfers as this process may have on one connection"
                f" ({STREAMING}) for {_STREAM_WAIT_S:g} s"
            )
        self._held.count = held + 1

    def leave(self) -> None:
        """Take one back."""
        self._held.count -= 1
        if not self._held.count:
            self._free.release()
