"""Hosts of one's own: network namespaces on one switch, whose cables can be pulled."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Final, Self

#: A part of the addresses kept for benchmarks of networks (RFC 2544), which nobody routes.
_NET: Final = "198.18"
_STALE: Final = re.compile(r"wlm-w([0-9]+)-")


class PrivateNetwork:
    """A switch with hosts; this process is one of them, at `own_address`. Needs root.

    One at a time in a process, whose id is in all its names: what a run that was killed left
    behind is removed by the next one. Names of hosts have at most 6 characters.
    """

    def __init__(self) -> None:
        self._id = f"w{os.getpid()}"
        self._part = secrets.randbelow(254) + 1
        self._hosts: dict[str, int] = {}

    @staticmethod
    def available() -> bool:
        """Whether namespaces can be made here."""
        if os.geteuid() != 0 or shutil.which("ip") is None:
            return False
        name = f"w-try-{secrets.token_hex(4)}"
        made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
        return made.returncode == 0

    def __enter__(self) -> Self:
        """Make the switch and our own cable to it."""
        _remove_stale()
        switch = self._namespace("switch")
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge", "forward_delay", "0")
        _ip("-n", switch, "link", "set", "bridge", "up")
        self._plug_in("own", None, 1)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove everything; what still runs in there loses its network."""
        for name in (*self._hosts, "switch"):
            subprocess.run(
                ["ip", "netns", "del", self._namespace(name)], capture_output=True, check=False
            )
        subprocess.run(["ip", "link", "del", f"{self._id}own"], capture_output=True, check=False)

    @property
    def own_address(self) -> str:
        """The address of this process, with the length of the network's prefix."""
        return f"{_NET}.{self._part}.1/24"

    def add(self, name: str) -> str:
        """Make a host; returns its address."""
        number = len(self._hosts) + 10
        self._hosts[name] = number
        _ip("netns", "add", self._namespace(name))
        _ip("-n", self._namespace(name), "link", "set", "lo", "up")
        self._plug_in(name, self._namespace(name), number)
        return self.address(name)

    def address(self, name: str) -> str:
        """The address of a host."""
        return f"{_NET}.{self._part}.{self._hosts[name]}"

    def inside(self, name: str) -> list[str]:
        """The words in front of a command that is to run on a host."""
        return ["ip", "netns", "exec", self._namespace(name)]

    def pull(self, name: str) -> None:
        """Pull a host's cable at the switch: what it sends is lost, and nothing tells it so."""
        _ip("-n", self._namespace("switch"), "link", "set", f"{self._id}{name}", "nomaster")

    def plug(self, name: str) -> None:
        """Plug it in again."""
        switch = self._namespace("switch")
        _ip("-n", switch, "link", "set", f"{self._id}{name}", "master", "bridge")

    def _namespace(self, name: str) -> str:
        return f"wlm-{self._id}-{name}"

    def _plug_in(self, name: str, namespace: str | None, number: int) -> None:
        switch, there = self._namespace("switch"), f"{self._id}{name}"
        here = f"{self._id}own" if namespace is None else "eth0"
        where = [] if namespace is None else ["-n", namespace]
        peer = ["peer", "name", there, "netns", switch]
        _ip(*where, "link", "add", here, "type", "veth", *peer)
        _ip(*where, "addr", "add", f"{_NET}.{self._part}.{number}/24", "dev", here)
        _ip(*where, "link", "set", here, "up")
        _ip("-n", switch, "link", "set", there, "up")
        _ip("-n", switch, "link", "set", there, "master", "bridge")


def _remove_stale() -> None:
    """Remove the namespaces of runs that are gone, and their cables with them."""
    known = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=False).stdout
    for line in known.splitlines():
        name = line.partition(" ")[0]
        found = _STALE.match(name)
        if found and not Path(f"/proc/{found[1]}").exists():
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stdout}{done.stderr}")
