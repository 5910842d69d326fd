"""How jobs stand, by the evidence in their directories and by the processes of this host.

A job has ended when its exit record says so. Without one it is LOST only if its guard is
certainly gone, nothing that belongs to it lives, and the record is still missing after that.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from wlm_tasks.compute import alive, processes
from wlm_tasks.compute.attempt import Attempt, Claim, ExitRecord, Where
from wlm_tasks.compute.base import JobRef, JobState, JobStatus
from wlm_tasks.compute.stopping import leader_of
from wlm_tasks.errors import BackendUnavailableError, PermanentError

#: seconds granted to a job of another host beyond its limit before its silence is told
_SILENCE_S: Final = 60.0
_SECOND_LOOK_S: Final = 0.02


def judge(refs: Sequence[JobRef]) -> dict[str, JobStatus]:
    """Return the state of each job by token."""
    result: dict[str, JobStatus] = {}
    missing: list[tuple[Attempt, Claim]] = []
    for ref in refs:
        try:
            attempt = Attempt(ref)
            status = _by_files(attempt, missing)
        except (BackendUnavailableError, PermanentError) as error:
            status = JobStatus(state=JobState.UNKNOWN, reason=str(error))
        if status is not None:
            result[ref.token] = status
    result.update(_search(missing))
    return result


def _by_files(attempt: Attempt, missing: list[tuple[Attempt, Claim]]) -> JobStatus | None:
    """Return the state if the files and one process tell it, else None; then add to `missing`."""
    if (record := attempt.exit()) is not None:
        return ended(record, cancelled=attempt.cancelled)
    claim = attempt.claim() or Claim.of_native_id(attempt.ref.native_id)
    if claim is None:
        return JobStatus(state=JobState.UNKNOWN, reason="no claim: not started yet")
    if claim.where is Where.NOWHERE:
        return never_started(claim)
    if claim.where is Where.HERE and _guard_lives(claim):
        return JobStatus(state=JobState.RUNNING, started_at=claim.epoch or None)
    elsewhere = out_of_sight(attempt, claim)
    if elsewhere is not False:
        return far_away(claim, lives=elsewhere is True)
    missing.append((attempt, claim))
    return None


def out_of_sight(attempt: Attempt, claim: Claim) -> bool | None:
    """Whether the job lives where no look from here reaches; None if that cannot be told."""
    where, lock = claim.where, attempt.file("alive")
    if where is Where.OTHER_CONTAINER:
        return alive.lives(lock, claim.alive)
    # held after a restart: another host has this one's machine id, copied with its disk
    if where is Where.ELSEWHERE or (where is Where.BEFORE_REBOOT and alive.is_locked(lock)):
        return None
    return False


def never_started(claim: Claim) -> JobStatus:
    """Return the state of a job whose claim a cancel made."""
    return JobStatus(state=JobState.CANCELLED, ended_at=claim.epoch, reason="cancelled")


def _guard_lives(claim: Claim) -> bool:
    process = processes.look_up(claim.pid)
    return process is not None and process.start == claim.start


def far_away(claim: Claim, *, lives: bool) -> JobStatus:
    """Return the state of a job out of sight; `lives` if its lock tells that it does."""
    if lives:
        return JobStatus(
            state=JobState.RUNNING,
            started_at=claim.epoch or None,
            reason=f"runs in another container, {claim.host}; known from here by its lock only",
        )
    end = claim.epoch + claim.limit_s + _SILENCE_S
    if time.time() <= end:
        return JobStatus(
            state=JobState.RUNNING,
            started_at=claim.epoch or None,
            reason=f"runs on {claim.host}; known from here by its files only",
        )
    return JobStatus(
        state=JobState.UNKNOWN,
        started_at=claim.epoch,
        reason=f"{claim.host} has not told how the job ended, though its time limit is over",
    )


def _search(missing: list[tuple[Attempt, Claim]]) -> dict[str, JobStatus]:
    """Judge jobs whose guard is gone: one look at all processes, a second where none was found."""
    result = {}
    for last in (False, True):
        if not missing:
            break
        table = processes.scan()
        remaining = []
        for attempt, claim in missing:
            if table.of_job(attempt.ref.token, leader_of(claim)):
                result[attempt.ref.token] = without_guard(claim)
            elif last:
                result[attempt.ref.token] = _gone(attempt, claim)
            else:
                remaining.append((attempt, claim))
        missing = remaining
        if missing and not last:
            # a process in the middle of exec(2) has no environment for a moment
            time.sleep(_SECOND_LOOK_S)
    return result


def without_guard(claim: Claim) -> JobStatus:
    """Return the state of a job whose processes have outlived their guard."""
    return JobStatus(
        state=JobState.RUNNING,
        started_at=claim.epoch or None,
        reason="its guard is gone, its processes live",
    )


def lost(claim: Claim, where: Where) -> JobStatus:
    """Return the state of a job that is certainly gone and left no exit record."""
    restarted = where is Where.BEFORE_REBOOT
    why = f"{claim.host} was restarted" if restarted else "its processes are gone"
    return JobStatus(
        state=JobState.LOST,
        started_at=claim.epoch or None,
        reason=f"{why} and it left no exit record",
    )


def _gone(attempt: Attempt, claim: Claim) -> JobStatus:
    # the guard may have written its record after the first look for it
    with suppress(BackendUnavailableError):
        if (record := attempt.exit()) is not None:
            return ended(record, cancelled=attempt.cancelled)
        return lost(claim, claim.where)
    return JobStatus(state=JobState.UNKNOWN, reason="its exit record cannot be read")


def ended(record: ExitRecord, *, cancelled: bool) -> JobStatus:
    """Return the state of a job that left an exit record."""
    code = record.code
    if cancelled or record.reason == "cancelled":
        state, reason = JobState.CANCELLED, "cancelled"
    elif record.reason == "exit" and code == 0:
        state, reason = JobState.SUCCEEDED, ""
    else:
        state, reason = JobState.FAILED, _reason(record)
    return JobStatus(
        state=state, exit_code=code, started_at=record.start, ended_at=record.end, reason=reason
    )


def _reason(record: ExitRecord) -> str:
    code = record.code
    if record.reason == "walltime":
        return "walltime: it was stopped at its time limit"
    if record.reason == "signal" and code is not None:
        with suppress(ValueError):
            return f"signal: it was ended by {signal.Signals(code - 128).name} (exit code {code})"
    return f"exit code {code}" if code is not None else record.reason or "no exit code"
