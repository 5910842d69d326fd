"""Whether a host runs commands for us, found out by trying."""

from __future__ import annotations

import threading
import time
from typing import Final

from wlm_tasks.errors import SiteNoShellError
from wlm_tasks.hosts.address import Address
from wlm_tasks.hosts.connections import connections
from wlm_tasks.hosts.ssh import SshShell

#: seconds for which what was found counts: operators change such things
_COUNTS_S: Final = 600.0
_TIMEOUT_S: Final = 60.0


def has_shell(address: Address) -> bool:
    """Tell whether scripts run on a host; in a process it is asked once in a while.

    Raises what `SshShell.run` does if that cannot be known now.
    """
    return connections().shared(_Probe, address).asked()


class _Probe:
    def __init__(self, address: Address) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._found = False
        self._until = 0.0

    def asked(self) -> bool:
        with self._lock:
            if time.monotonic() >= self._until:
                try:
                    SshShell(self._address).run(":", timeout_s=_TIMEOUT_S)
                    self._found = True
                except SiteNoShellError:
                    self._found = False
                self._until = time.monotonic() + _COUNTS_S
            return self._found
