"""Who is alive, as our Serf agent sees it.

An agent that was just started knows only whom it has met: of workers that died before, it tells
nothing. And one that is cut off takes everybody else for failed. So a view is evidence, to be
weighed against the roster, and never the truth.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from wlm_tasks.cluster.gossip import EventKind, Gossip, Member, MemberEvent, MemberStatus
from wlm_tasks.cluster.tags import Role, WorkerAttributes, parse
from wlm_tasks.errors import ServiceError

_log = logging.getLogger(__name__)

_LISTING_S: Final = 30.0
_WAIT_S: Final = 1.0  #: for events, before it is looked whether to end
_BACK_OFF_S: Final = 0.25
_BACK_OFF_MAX_S: Final = 5.0
#: of several nodes that tell of one worker the first of these counts
_PRECEDENCE: Final = (
    MemberStatus.ALIVE,
    MemberStatus.LEAVING,
    MemberStatus.LEFT,
    MemberStatus.FAILED,
)

#: name and incarnation
WorkerKey = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class WorkerSeen:
    """One life of a worker."""

    status: MemberStatus
    since: float  #: since when, by this process's monotonic clock
    attributes: WorkerAttributes  #: as they were told last
    node: str  #: the name of its agent


@dataclass(frozen=True, kw_only=True)
class View:
    """What our agent knows, as far as we do.

    For some seconds after `since` it may list few: an agent that was started again has to join.
    """

    connected: bool = False  #: whether our agent answers; if not, the rest is as it was then
    since: float  #: since when it is connected, or is not; by this process's monotonic clock
    trouble: str | None = None  #: why it is not
    listed_at: float | None = None  #: when the agent last told all it knows
    workers: Mapping[WorkerKey, WorkerSeen] = field(default_factory=dict)
    alive: int = 0  #: agents alive, ours and those of control, seeds and strangers included
    strangers: int = 0  #: members whose tags are not ours


@dataclass(frozen=True)
class _Node:
    status: MemberStatus
    since: float
    tags: Mapping[str, str]
    attributes: WorkerAttributes | None


class Membership:
    """Follows one agent in a thread of its own, across its restarts.

    `connect` is asked for a new connection whenever there is none, `on_change` is called from
    that thread after every change of the view; it must not wait.
    """

    def __init__(
        self,
        connect: Callable[[], Gossip],
        *,
        on_change: Callable[[], None] = lambda: None,
        listing_s: float = _LISTING_S,
    ) -> None:
        self._connect = connect
        self._on_change = on_change
        self._listing_s = listing_s
        self._nodes: dict[str, _Node] = {}
        self._view = View(since=time.monotonic())
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="serf-members", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def close(self) -> None:
        """Stop following; the view stays as it is."""
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join(2 * _WAIT_S)

    def snapshot(self) -> View:
        """Return what is known now; never waits."""
        return self._view

    def prune(self, node: str) -> None:
        """Have every agent forget a failed or left node; raises `ServiceError`."""
        with self._connect() as gossip:
            gossip.force_leave(node, prune=True)

    def _run(self) -> None:
        back_off_s = _BACK_OFF_S
        while not self._ending.is_set():
            began = time.monotonic()
            try:
                with self._connect() as gossip:
                    self._follow(gossip)
            except ServiceError as error:
                self._lost(error.message)
            except Exception:  # noqa: BLE001 - who is alive must be told again soon
                _log.exception("following Serf")
                self._lost("Serf: a fault of our own, see the log")
            if time.monotonic() - began > _BACK_OFF_MAX_S:
                back_off_s = _BACK_OFF_S
            self._ending.wait(back_off_s)
            back_off_s = min(2 * back_off_s, _BACK_OFF_MAX_S)

    def _lost(self, trouble: str) -> None:
        view = self._view
        if view.connected or view.trouble != trouble:
            self._publish(connected=False, trouble=trouble, listed_at=view.listed_at)

    def _follow(self, gossip: Gossip) -> None:
        """Follow until the connection is lost, which raises `ServiceError`."""
        gossip.watch()  # first, so that nothing is missed between the two
        self._list(gossip)
        next_listing = time.monotonic() + self._listing_s
        while not self._ending.is_set():
            events = gossip.events(min(_WAIT_S, max(0.0, next_listing - time.monotonic())))
            tags_only = self._are_of_tags(events)
            if tags_only:
                self._update(events)
            # events may be seconds old, and an older one would undo what a listing has told
            if not tags_only or time.monotonic() >= next_listing:
                self._list(gossip)
                next_listing = time.monotonic() + self._listing_s

    def _are_of_tags(self, events: Iterable[MemberEvent]) -> bool:
        """Whether at most tags have changed.

        Of a member that joins and changes its tags within a second, an agent tells the latter only.
        """
        return all(
            event.kind is EventKind.UPDATE
            and (node := self._nodes.get(member.name)) is not None
            and node.status is member.status
            for event in events
            for member in event.members
        )

    def _list(self, gossip: Gossip) -> None:
        now = time.monotonic()
        found = {member.name: member for member in gossip.members()}
        self._nodes = {name: self._noted(member, now) for name, member in found.items()}
        self._publish(connected=True, trouble=None, listed_at=now)

    def _update(self, events: Iterable[MemberEvent]) -> None:
        """Take over changed tags of members that are known."""
        changed = [member for event in events for member in event.members]
        for member in changed:
            self._nodes[member.name] = self._noted(member, self._nodes[member.name].since)
        if changed:
            self._publish(connected=True, trouble=None, listed_at=self._view.listed_at)

    def _noted(self, member: Member, now: float) -> _Node:
        last = self._nodes.get(member.name)
        if last is not None and last.tags == member.tags:  # parsing is most of the work
            attributes = last.attributes
        else:
            attributes = parse(member.tags)
        same = last is not None and last.status is member.status
        return _Node(
            status=member.status,
            since=last.since if same and last is not None else now,
            tags=member.tags,
            attributes=attributes,
        )

    def _publish(self, *, connected: bool, trouble: str | None, listed_at: float | None) -> None:
        last = self._view
        self._view = View(
            connected=connected,
            since=last.since if connected == last.connected else time.monotonic(),
            trouble=trouble,
            listed_at=listed_at,
            workers=MappingProxyType(_workers(self._nodes)),
            alive=sum(n.status is MemberStatus.ALIVE for n in self._nodes.values()),
            strangers=sum(n.attributes is None for n in self._nodes.values()),
        )
        self._on_change()


def _workers(nodes: Mapping[str, _Node]) -> dict[WorkerKey, WorkerSeen]:
    """Return the workers among the nodes; an agent that had to change its name tells of the same.

    Of two that claim to be one worker, the one that is more alive counts, then the newer one.
    """
    found: dict[WorkerKey, WorkerSeen] = {}
    for name, node in nodes.items():
        told = node.attributes
        if told is None or told.role is not Role.WORKER:
            continue
        seen = WorkerSeen(status=node.status, since=node.since, attributes=told, node=name)
        key = (told.name, told.incarnation)
        if key not in found or _rank(seen) > _rank(found[key]):
            found[key] = seen
    return found


def _rank(seen: WorkerSeen) -> tuple[int, float]:
    return -_PRECEDENCE.index(seen.status), seen.since
