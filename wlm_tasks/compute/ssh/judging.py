"""How the jobs of a plain host stand, by the facts that its scripts print. Nothing is asked here.

The same rules as on the worker's own host, see `wlm_tasks.compute.evidence`: an exit record ends a
job; without one it is LOST only if its guard is gone, nothing of it lives, and the record was still
missing after that.
"""

from __future__ import annotations

from collections.abc import Sequence

from wlm_tasks.compute import evidence
from wlm_tasks.compute.attempt import Claim, Where
from wlm_tasks.compute.base import JobRef, JobState, JobStatus
from wlm_tasks.compute.processes import Place
from wlm_tasks.compute.remote import Markers, Seen


def judge(refs: Sequence[JobRef], seen: Seen) -> dict[str, JobStatus]:
    """Return the state of each job by token."""
    return {
        ref.token: _one(ref, seen.of[ref.token], seen.more[ref.token], seen.place) for ref in refs
    }


def _one(ref: JobRef, markers: Markers, facts: Sequence[str], place: Place) -> JobStatus:
    if markers.exit is not None:
        return evidence.ended(markers.exit, cancelled=markers.cancelled)
    claim = markers.claim(place) or Claim.of_native_id(ref.native_id, place)
    if claim is None:
        return _unknown(markers.trouble or "no claim: not started yet")
    return _claimed(claim, claim.seen_from(place), facts, markers.trouble)


def _claimed(claim: Claim, where: Where, facts: Sequence[str], trouble: str) -> JobStatus:
    """Judge a job without an exit record."""
    if where is Where.NOWHERE:
        return evidence.never_started(claim)
    elsewhere = out_of_sight(claim, where, facts)
    if elsewhere is not False:
        return evidence.far_away(claim, lives=elsewhere is True)
    if where is Where.HERE and "guard" in facts:
        return JobStatus(state=JobState.RUNNING, started_at=claim.epoch or None)
    if "lives" in facts:
        return evidence.without_guard(claim)
    if trouble or "gone" not in facts:
        return _unknown(trouble or "its processes could not be looked for")
    return evidence.lost(claim, where)


def out_of_sight(claim: Claim, where: Where, facts: Sequence[str]) -> bool | None:
    """Whether the job lives where no look from its site's host reaches; None if unknown."""
    state, file = _lock(facts)
    if where is Where.OTHER_CONTAINER:
        proves = bool(claim.alive) and file == claim.alive
        return {"held": True, "free": False}.get(state) if proves else None
    # held after a restart: another host has this one's machine id, copied with its disk
    if where is Where.ELSEWHERE or (where is Where.BEFORE_REBOOT and state == "held"):
        return None
    return False


def _lock(facts: Sequence[str]) -> tuple[str, str]:
    """Return whether the job's lock is held, free or none, and which file it is."""
    for fact in facts:
        word, _, rest = fact.partition(" ")
        if word == "lock":
            state, _, file = rest.partition(" ")
            return state, file
    return "none", ""


def _unknown(reason: str) -> JobStatus:
    return JobStatus(state=JobState.UNKNOWN, reason=reason)
