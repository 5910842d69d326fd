"""Hosts on one machine: network namespaces with a cable each to one switch, a bridge.

All of it carries the mark of the test run, so that the guardian removes what a killed run leaves.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from services.guardian import MARKER, network_mark, remove_network
from services.service import Service

_TRIES: Final = 20
#: Its own host name, so that what tells of hosts tells them apart; then the program.
_NAMED: Final = 'hostname "$0" && exec "$@"'


@dataclass(frozen=True)
class Host:
    """One host; its address is reached from the machine itself as well."""

    name: str
    address: str
    namespace: str
    port: str  #: where its cable is plugged in

    def inside(self, user: str | None = None) -> list[str]:
        """Words in front of a command that runs on this host, as the same process."""
        words = ["ip", "netns", "exec", self.namespace]
        words += ["unshare", "--uts", "sh", "-c", _NAMED, self.name]
        if user is not None:
            words += ["setpriv", "--reuid", user, "--regid", user, "--clear-groups", "--"]
        return words


class PrivateNetwork(Service):
    """A network of its own; `host` adds to it."""

    def __init__(self) -> None:
        self._mark = network_mark(os.environ[MARKER])
        self._prefix = ""
        self.hosts: dict[str, Host] = {}

    @staticmethod
    def available() -> bool:
        """True for root where the kernel lets it make namespaces."""
        return os.geteuid() == 0 and _works()

    def start(self) -> None:
        ip("link", "add", self._mark, "type", "bridge")
        for _ in range(_TRIES):
            self._prefix = f"10.{random.randint(64, 254)}.{random.randint(0, 255)}"
            if f"{self._prefix}." not in ip("-4", "route"):
                break
        ip("addr", "add", f"{self._prefix}.1/24", "dev", self._mark)
        ip("link", "set", self._mark, "up")

    def close(self) -> None:
        remove_network(self._mark)

    def host(self, name: str) -> Host:
        """Add a host, plugged in."""
        number = len(self.hosts) + 2
        host = Host(
            name=name,
            address=f"{self._prefix}.{number}",
            namespace=f"{self._mark}-{name}",
            port=f"{self._mark}-{number}",
        )
        ip("netns", "add", host.namespace)
        cable = ["type", "veth", "peer", "name", "eth0", "netns", host.namespace]
        ip("link", "add", host.port, *cable)
        for words in (
            ["addr", "add", f"{host.address}/24", "dev", "eth0"],
            ["link", "set", "eth0", "up"],
            ["link", "set", "lo", "up"],
        ):
            ip("-n", host.namespace, *words)
        ip("link", "set", host.port, "up")
        self.plug(host)
        self.hosts[name] = host
        return host

    def plug(self, host: Host) -> None:
        """Plug a host's cable in."""
        ip("link", "set", host.port, "master", self._mark)

    @staticmethod
    def pull(host: Host) -> None:
        """Pull a host's cable at the switch: it cannot see that, and nobody gets an answer."""
        ip("link", "set", host.port, "nomaster")


def ip(*words: str) -> str:
    """Run ``ip``; its output, `RuntimeError` with its words if it fails."""
    return _output(["ip", *words])


def _output(words: Sequence[str]) -> str:
    done = subprocess.run(
        words, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=30, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


@cache
def _works() -> bool:
    if any(shutil.which(name) is None for name in ("ip", "unshare", "setpriv", "hostname")):
        return False
    try:
        _output(["unshare", "--net", "--uts", "--mount", "ip", "link", "add", "type", "bridge"])
    except RuntimeError:
        return False
    return True
