"""Whether an agent has found others, and bringing groups of agents together again.

Agents that were apart for longer than `reconnect_timeout` have forgotten each other: somebody has
to introduce them anew, which is what the seeds are for.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterable
from typing import Final

from wlm_tasks.cluster.gossip import Gossip, Member, MemberStatus
from wlm_tasks.config import SerfSettings
from wlm_tasks.errors import ServiceError

#: between looks, while all is well and while the agent is alone
_LOOK_S: Final = 15.0
_ALONE_S: Final = 3.0
#: between looks whether a seed is among the others
_SEEDS_S: Final = 300.0
_WRONG_KEY: Final = "no installed keys could decrypt"

#: IP address and port
Address = tuple[str, int]


class Neighbours:
    """Looks now and then, by RPC, whom an agent knows."""

    def __init__(self, settings: SerfSettings) -> None:
        self._seeds = settings.join
        self._bind = settings.bind
        self._misled: str | None = None
        self._next_look = 0.0
        self._next_search = 0.0

    def begin(self) -> None:
        """Look soon: the agent is new, but gets the time to join by itself."""
        self._next_look = self._next_search = time.monotonic() + _ALONE_S

    def due(self) -> bool:
        """Whether it is time to look."""
        return time.monotonic() >= self._next_look

    def look(self, gossip: Gossip, node: str) -> str | None:
        """Return what is wrong, None if all is well; raises `ServiceError` if the agent hangs."""
        now = time.monotonic()
        alone = alive_count(gossip.stats()) <= 1
        trouble = None
        if now >= self._next_search or (alone and self._seeds):
            members = gossip.members()
            own = {(m.address, m.port) for m in members if m.name == node}
            self._misled = misled(self._bind, own)
            trouble = self._search(gossip, members, own)
            self._next_search = time.monotonic() + _SEEDS_S
        self._next_look = time.monotonic() + (_ALONE_S if trouble and alone else _LOOK_S)
        return self._misled or (trouble if alone else None)

    def _search(self, gossip: Gossip, members: list[Member], own: set[Address]) -> str | None:
        """Join the seeds unless one is a neighbour already; return why that fails."""
        known = {(m.address, m.port) for m in members if m.status is MemberStatus.ALIVE} - own
        others = [seed for seed in self._seeds if not addresses_of(seed) & own]
        if not others or any(addresses_of(seed) & known for seed in others):
            return None
        try:
            gossip.join(others)
        except ServiceError as error:
            return explain(others, error.message)
        return None


def misled(bind: str, own: set[Address]) -> str | None:
    """Return what is wrong with where an agent tells others to reach it.

    One that listens on all addresses tells a private one; where only IPv6 has any, it tells that
    even if it listens on IPv4.
    """
    wrong = [address for address, _ in own if ":" in address and ":" not in bind]
    if not wrong:
        return None
    return f"Serf: listens on {bind} but tells others {wrong[0]}; set serf.advertise"


def alive_count(stats: dict[str, dict[str, str]]) -> int:
    """Return how many members are alive, by an agent's numbers; raises `ServiceError`."""
    numbers = stats.get("serf", {})
    try:
        gone = int(numbers.get("failed", "0")) + int(numbers.get("left", "0"))
        return int(numbers["members"]) - gone
    except (KeyError, ValueError):
        raise ServiceError("Serf: the agent's numbers make no sense") from None


def addresses_of(seed: str) -> set[Address]:
    """Return the addresses of HOST:PORT; none if the name is not known."""
    host, _, port = seed.rpartition(":")
    with contextlib.suppress(OSError, UnicodeError):
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        return {(str(address[0]), int(address[1])) for *_, address in found}
    return set()


def explain(seeds: Iterable[str], words: str) -> str:
    """Return why seeds could not be joined, from the agent's words."""
    names = ", ".join(seeds)
    if _WRONG_KEY in words.lower():
        return f"Serf: serf.encrypt_key is not the key of the agents at {names}"
    # after what our client and Serf's list of errors put in front
    said = words.rpartition(": join: ")[2].removeprefix("1 error occurred: * ")
    return f"Serf: no seed answers ({names}): {said}"
