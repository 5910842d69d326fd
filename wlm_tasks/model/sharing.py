"""Fair shares of a site's places among those who wait for them. Pure."""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A submit that waits for a place."""

    experiment_id: str
    seq: int
    owner: str | None  #: those without an owner share as one
    priority: int
    ready_at: float  #: since when, seconds since the epoch


def share(waiting: Sequence[Waiting], using: Mapping[str | None, int], free: int) -> list[Waiting]:
    """Choose those who get the `free` places, in the order in which they get them.

    The most urgent go first, whoever owns them. Within a priority each place goes to the owner
    who has the fewest, counting what they use already, and of those to who has waited longest.
    """
    having: dict[str | None, int] = defaultdict(int, using)
    chosen: list[Waiting] = []
    for priority in sorted({one.priority for one in waiting}, reverse=True):
        lines = _lines([one for one in waiting if one.priority == priority])
        turns = [(having[owner], _age(line[0]), owner) for owner, line in lines.items()]
        heapq.heapify(turns)
        while turns and len(chosen) < free:
            _has, _since, owner = heapq.heappop(turns)
            chosen.append(lines[owner].popleft())
            having[owner] += 1
            if lines[owner]:
                heapq.heappush(turns, (having[owner], _age(lines[owner][0]), owner))
    return chosen


def _lines(waiting: Sequence[Waiting]) -> dict[str | None, deque[Waiting]]:
    lines: dict[str | None, deque[Waiting]] = defaultdict(deque)
    for one in sorted(waiting, key=_age):
        lines[one.owner].append(one)
    return lines


def _age(one: Waiting) -> tuple[float, str]:
    """The older first; the id, which is unique, sees to it that owners are never compared."""
    return one.ready_at, one.experiment_id
