"""What is asked of a Serf agent, whoever carries the question: `Gossip`.

Everything here that came over the network was written by strangers until it is checked: names
and tags may hold anything.
"""

from __future__ import annotations

import ipaddress
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Final, Self

#: the only address a name is taken for that could not be read
NO_ADDRESS: Final = ""
_PORT_LIMIT: Final = 65_535


class MemberStatus(StrEnum):
    """How a member stands, in Serf's words."""

    ALIVE = "alive"
    LEAVING = "leaving"
    LEFT = "left"
    FAILED = "failed"


class EventKind(StrEnum):
    """What happens to members, in Serf's words."""

    JOIN = "member-join"
    LEAVE = "member-leave"
    FAILED = "member-failed"
    UPDATE = "member-update"
    REAP = "member-reap"


@dataclass(frozen=True)
class Member:
    """One agent, as another one knows it."""

    name: str
    status: MemberStatus
    address: str  #: empty if it could not be read
    port: int
    tags: Mapping[str, str]


@dataclass(frozen=True)
class MemberEvent:
    """Something that happened to some members."""

    kind: EventKind
    members: tuple[Member, ...]


class Gossip(ABC):
    """A connection with one Serf agent; for one thread at a time.

    Every method but `close` raises `ServiceError` if the agent cannot be asked, does not answer
    in time or refuses; after that the connection may be of no more use: make another.
    """

    @abstractmethod
    def members(self) -> list[Member]:
        """Return all the agent knows, itself included; records that make no sense are left out."""

    @abstractmethod
    def set_tags(self, tags: Mapping[str, str], delete: Iterable[str] = ()) -> None:
        """Set some tags of the agent and delete others; waits until the news is on its way."""

    @abstractmethod
    def stats(self) -> dict[str, dict[str, str]]:
        """Return the agent's own numbers, in sections."""

    @abstractmethod
    def join(self, addresses: Sequence[str]) -> int:
        """Contact agents (HOST:PORT) and return how many answered; raises if none did."""

    @abstractmethod
    def force_leave(self, name: str, *, prune: bool = False) -> None:
        """Declare a failed member gone; `prune` forgets it everywhere. Unknown names are fine."""

    @abstractmethod
    def leave(self) -> None:
        """Make the agent leave and end."""

    @abstractmethod
    def watch(self) -> None:
        """Have the events of members sent from now on; `events` hands them out."""

    @abstractmethod
    def events(self, timeout_s: float) -> list[MemberEvent]:
        """Wait for events, at most so long, and return those that are there; maybe none."""

    @abstractmethod
    def close(self) -> None:
        """End the connection; a thread that waits in another method gets its `ServiceError`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_members(found: object) -> list[Member]:
    """Return the members of a list as RPC gives it, without those that make no sense."""
    records = found if isinstance(found, list) else []
    return [member for record in records if (member := _read_member(record)) is not None]


def read_event(body: object) -> MemberEvent | None:
    """Return an event as RPC gives it; None if it makes no sense."""
    if not isinstance(body, dict):
        return None
    try:
        kind = EventKind(str(body.get("Event")))
    except ValueError:
        return None
    return MemberEvent(kind, tuple(read_members(body.get("Members"))))


def _read_member(record: object) -> Member | None:
    if not isinstance(record, dict):
        return None
    name, tags, port = record.get("Name"), record.get("Tags"), record.get("Port")
    try:
        status = MemberStatus(str(record.get("Status")))
    except ValueError:
        return None
    if not isinstance(name, str) or not name:
        return None
    tags = tags if isinstance(tags, dict) else {}
    return Member(
        name,
        status,
        _read_address(record.get("Addr")),
        port if isinstance(port, int) and 0 <= port <= _PORT_LIMIT else 0,
        {k: v for k, v in tags.items() if isinstance(k, str) and isinstance(v, str)},
    )


def _read_address(raw: object) -> str:
    if isinstance(raw, str):  # bytes as older agents send them
        raw = raw.encode(errors="surrogateescape")
    try:
        found = ipaddress.ip_address(raw) if isinstance(raw, bytes) else None
    except ValueError:
        return NO_ADDRESS
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return NO_ADDRESS if found is None else str(found)
