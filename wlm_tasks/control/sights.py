"""What each witness says of a worker, from what was heard. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from wlm_tasks.cluster.gossip import EventKind, MemberStatus
from wlm_tasks.cluster.members import View
from wlm_tasks.control.second_path import Noted
from wlm_tasks.control.witnesses import Heard
from wlm_tasks.model.workers import Sight, Witness
from wlm_tasks.state.roster import Present

#: Seconds that Serf's agents get to find each other before one that is not listed is missed.
_MEETING_S: Final = 30.0


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that was heard, and since when. Times are of this process's monotonic clock."""

    now: float
    patience_s: float  #: without a sign after which a worker is missed
    database_since: float  #: since when the database has answered without a break
    heartbeats_since: float | None = None  #: since when heartbeats are listened to, if they are
    heard: Mapping[str, Heard] = field(default_factory=dict)
    queues_since: float | None = None  #: since when the broker's events are listened to
    queues_gone: Mapping[str, float] = field(default_factory=dict)
    serf: View | None = None  #: None where it is not in use
    noted: Mapping[tuple[str, str], Noted] = field(default_factory=dict)  #: by Serf's handlers


def sights(worker: Present, evidence: Evidence) -> dict[Witness, Sight]:
    """What those say of a worker who can tell."""
    traits = traits_of(worker.attributes)
    found = {
        Witness.CELERY: _celery(worker, evidence),
        Witness.BROKER: _broker(worker, evidence),
        Witness.DATABASE: _database(worker, evidence),
        Witness.SERF: _serf(worker, evidence) if traits.get("serf") else None,
    }
    if not traits.get("heartbeats", True):
        found |= {Witness.CELERY: None, Witness.BROKER: None}  # nothing would tell that it is back
    if _busy(traits, found):
        found[Witness.CELERY] = None
    return {witness: sight for witness, sight in found.items() if sight is not None}


@lru_cache(maxsize=10_000)
def traits_of(attributes: str) -> Mapping[str, Any]:
    """What a worker said of itself; the same words again and again."""
    found = json.loads(attributes)
    return MappingProxyType(found if isinstance(found, dict) else {})


def _busy(traits: Mapping[str, object], found: Mapping[Witness, Sight | None]) -> bool:
    """Whether a silence is that of a solo pool, whose tasks keep its main loop from speaking."""
    heartbeats, database = found[Witness.CELERY], found[Witness.DATABASE]
    silent = heartbeats is not None and not heartbeats.alive and not heartbeats.goodbye
    return traits.get("pool") == "solo" and silent and database is not None and database.alive


def _celery(worker: Present, evidence: Evidence) -> Sight | None:
    since, now = evidence.heartbeats_since, evidence.now
    if since is None:
        return None
    heard = evidence.heard.get(worker.name)
    if heard is not None and heard.pid in (worker.pid, None):
        silent_s = now - heard.at
        if heard.goodbye:
            return Sight(alive=False, for_s=silent_s, words="went offline", goodbye=True)
        if silent_s <= evidence.patience_s:
            return Sight(alive=True, for_s=silent_s)
    else:
        silent_s = worker.age_s
    # what was said while nobody listened was not heard
    silent_s = min(silent_s, now - since)
    if silent_s <= evidence.patience_s:
        return None
    return Sight(alive=False, for_s=silent_s, words="no heartbeat")


def _broker(worker: Present, evidence: Evidence) -> Sight | None:
    gone_at = evidence.queues_gone.get(worker.name)
    # what was heard before a gap may be over by now
    if evidence.queues_since is None or gone_at is None or gone_at < evidence.queues_since:
        return None
    gone_s = evidence.now - gone_at
    if gone_s >= worker.age_s:
        return None  # that of the process before it
    return Sight(alive=False, for_s=gone_s, words="its connection is gone")


def _database(worker: Present, evidence: Evidence) -> Sight | None:
    if worker.heard_s <= evidence.patience_s:
        return Sight(alive=True, for_s=worker.heard_s)
    # while the database was away, or its clock was set, a worker may not have been able to write
    missed_s = min(worker.heard_s, evidence.now - evidence.database_since)
    if missed_s <= evidence.patience_s:
        return None
    return Sight(alive=False, for_s=missed_s, words="no sign of life")


def _serf(worker: Present, evidence: Evidence) -> Sight | None:
    view, now = evidence.serf, evidence.now
    if view is None or not view.connected or view.listed_at is None:
        return _noted(worker, evidence)
    if (seen := view.workers.get((worker.name, worker.incarnation))) is not None:
        for_s = now - seen.since
        alive = seen.status in (MemberStatus.ALIVE, MemberStatus.LEAVING)
        left = seen.status is MemberStatus.LEFT
        words = "" if alive else str(seen.status)
        return Sight(alive=alive, for_s=for_s, words=words, goodbye=left)
    unlisted_s = min(now - view.since, worker.age_s)
    # an agent that knows nobody else is cut off itself
    if unlisted_s <= _MEETING_S or view.alive <= 1:
        return None
    return Sight(alive=False, for_s=unlisted_s, words="not a member")


def _noted(worker: Present, evidence: Evidence) -> Sight | None:
    """What a handler wrote down last, where the agent itself cannot be asked."""
    noted = evidence.noted.get((worker.name, worker.incarnation))
    if noted is None or noted.kind not in (EventKind.FAILED, EventKind.LEAVE):
        return None
    left = noted.kind is EventKind.LEAVE
    for_s = evidence.now - noted.at
    return Sight(alive=False, for_s=for_s, words="left" if left else "failed", goodbye=left)
