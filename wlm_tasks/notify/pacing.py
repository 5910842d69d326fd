"""Which of the waiting notices go out now, and which of them together. Pure.

A lone critical notice goes out at once. When many come, they are one digest: people need to know
that a rack is gone and not to get 300 mails. What is not urgent is collected for longer.

Nothing is remembered between two looks; the times at which the notices came say it all. A batch
that was tried and did not go out must stay as it is, with its message's id: do not hand its notices
in again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from wlm_tasks.model.notices import NoticeKind, Severity

#: so many may come one by one within `Pace.first_s`; with more it is a storm
_FEW: Final = 3
#: so many single ones may go out within `Pace.storm_s`
_MANY: Final = 10
#: how far ahead of the clock a notice may have come before its time is not believed
_AHEAD_S: Final = 5.0
#: what is told soon although it is no alarm: people stop looking for what is back
_SOON: Final = frozenset(
    {
        NoticeKind.WORKER_BACK,
        NoticeKind.FLEET_BACK,
        NoticeKind.BROKER_BACK,
        NoticeKind.SITE_BACK,
        NoticeKind.QUEUE_SERVED,
    }
)


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A notice that has not gone out."""

    key: str
    kind: NoticeKind
    severity: Severity
    since: float  #: when it began to wait
    ends: str | None = None  #: the key of the notice it ends: never told before that


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How long notices are collected, in seconds."""

    digest_s: float = 600.0  #: what is not urgent; `AlertSettings.digest_s`
    first_s: float = 5.0  #: what is critical, to see whether more come
    soon_s: float = 30.0  #: what is back
    quiet_s: float = 15.0  #: a storm ends when for so long no more came,
    storm_s: float = 120.0  #: or when it is that old


@dataclass(frozen=True)
class Plan:
    """What to send now, and when to look again."""

    batches: tuple[tuple[str, ...], ...]  #: keys; those of one batch go out as one message
    look_at: float | None  #: None if nothing waits


def plan(waiting: Iterable[Waiting], now: float, pace: Pace, recent: Iterable[float] = ()) -> Plan:
    """Say what goes out now. Each key is in one batch at most; what is in none waits.

    `recent` are the times at which messages about single critical notices went out lately; after
    many of them the next ones are collected, too.
    """
    found = {one.key: one for one in waiting}
    roots = {key: _root(one, found) for key, one in found.items()}
    leading = [one for key, one in found.items() if roots[key] == key]
    calm = sum(now - at < pace.storm_s for at in recent) < _MANY
    sent: list[list[str]] = []
    looks: list[float] = []
    for lane in _lanes(leading, now, pace, calm=calm):
        ready, look_at = lane.look(now)
        sent += ready
        looks += [] if look_at is None else [look_at]
    riders: dict[str, list[str]] = {}
    for key in sorted(found.keys() - {one.key for one in leading}):
        riders.setdefault(roots[key], []).append(key)
    batches = tuple((*keys, *(r for key in keys for r in riders.get(key, []))) for keys in sent)
    return Plan(batches, min(looks, default=None))


def _root(one: Waiting, found: Mapping[str, Waiting]) -> str:
    """Return the key of the notice this one goes out with: its own, or that of what it ends."""
    while (ended := found.get(one.ends or "")) and (ended.since, ended.key) < (one.since, one.key):
        one = ended
    return one.key


@dataclass(frozen=True)
class _Lane:
    """Notices that are in the same hurry."""

    members: list[tuple[float, str]]  #: since when, and the key
    wait_s: float
    pace: Pace
    together: bool = False  #: one digest in any case
    calm: bool = True  #: False: collected like a storm

    def look(self, now: float) -> tuple[list[list[str]], float | None]:
        """Return the batches that go now, and when the next one is due."""
        if not self.members:
            return [], None
        keys = [key for _since, key in self.members]
        if self.together or self._stormy():
            due = self._all_due()
            return ([keys], None) if now >= due else ([], due)
        due_keys = [key for since, key in self.members if now >= since + self.wait_s]
        left = [since for since, _key in self.members if now < since + self.wait_s]
        look_at = min(left) + self.wait_s if left else None
        many = len(due_keys) > _FEW
        return ([due_keys] if many else [[key] for key in due_keys]), look_at

    def _stormy(self) -> bool:
        times = [since for since, _key in self.members]
        near = zip(times, times[_FEW:], strict=False)
        return not self.calm or any(last - first <= self.pace.first_s for first, last in near)

    def _all_due(self) -> float:
        first, last = self.members[0][0], self.members[-1][0]
        if self.together:
            return first + self.wait_s
        if not self.calm:
            return first + self.pace.storm_s
        return min(max(last + self.pace.quiet_s, first + self.wait_s), first + self.pace.storm_s)


def _lanes(leading: Iterable[Waiting], now: float, pace: Pace, *, calm: bool) -> list[_Lane]:
    tests: list[tuple[float, str]] = []
    critical: list[tuple[float, str]] = []
    soon: list[tuple[float, str]] = []
    rest: list[tuple[float, str]] = []
    for one in leading:
        if one.kind is NoticeKind.TEST:
            lane = tests
        elif one.severity is Severity.CRITICAL:
            lane = critical
        else:
            lane = soon if one.kind in _SOON else rest
        # a clock that was set back keeps nobody waiting
        lane.append((one.since if one.since <= now + _AHEAD_S else -math.inf, one.key))
    return [
        _Lane(sorted(critical), pace.first_s, pace, calm=calm),
        _Lane(sorted(tests), 0.0, pace),
        _Lane(sorted(soon), pace.soon_s, pace),
        _Lane(sorted(rest), pace.digest_s, pace, together=True),
    ]
