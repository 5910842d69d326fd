"""How a job stands, from what its directory and Slurm tell. Pure.

The exit record is the first evidence, Slurm's own record the second. That Slurm says COMPLETED is
none: a copy of the job that found the payload claimed ends like that too. And that Slurm lists no
such job proves nothing before it has been so for a while, in one answer after the other.
"""

from __future__ import annotations

import time
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from wlm_tasks.compute import evidence
from wlm_tasks.compute.attempt import Claim, ExitRecord, Where
from wlm_tasks.compute.base import JobRef, JobState, JobStatus, SiteLoad
from wlm_tasks.compute.processes import Place
from wlm_tasks.compute.remote import Markers
from wlm_tasks.compute.slurm.listing import Row, choose
from wlm_tasks.compute.slurm.states import ENDED, end_of, meanwhile, state_of

#: how much longer a job that has begun is looked for than one that has not
_PATIENCE: Final = 4
#: ends that a payload was killed by, so that its exit record says no more than a signal
_KILLED: Final = frozenset({"TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "PREEMPTED", "DEADLINE"})
#: what a job comes to, among others, that has used up its memory
_BAD_ENDS: Final = frozenset({JobState.FAILED, JobState.CANCELLED, JobState.LOST})


@dataclass(frozen=True, kw_only=True, slots=True)
class Traces:
    """What a second look has found of a job that Slurm does not list, or lists as ended."""

    markers: Markers
    place: Place
    job: str | None  #: id of the job that claimed the payload
    used_up_memory: bool = False  #: as Slurm wrote to the job's log, whatever state it gave it
    missing_s: int | None  #: for so long no answer of Slurm has listed it; None if it is listed
    settle_s: int  #: for so long an answer without a job proves nothing
    accounts: Sequence[Row] | None  #: what accounting has of it; None: it does not answer


def count(rows: Iterable[Row], ours: Container[str]) -> SiteLoad:
    """Return how many jobs of a list wait and run; foreign are those of names not among `ours`."""
    alive = [row for row in rows if row.state not in ENDED]
    queued = sum(state_of(row.state) is JobState.PENDING for row in alive)
    foreign = sum(row.name not in ours for row in alive)
    return SiteLoad(queued=queued, running=len(alive) - queued, foreign=foreign)


def live(row: Row) -> JobStatus | None:
    """Return the state of a job that Slurm lists and that has not ended, None if it has."""
    if row.state in ENDED:
        return None
    state = state_of(row.state)
    reason = meanwhile(row.state, row.reason)
    if state is JobState.UNKNOWN:
        return JobStatus(state=state, reason=f"Slurm says {row.state}")
    if state is JobState.RUNNING:
        return JobStatus(state=state, started_at=row.starts_at, reason=reason)
    if row.starts_at is not None:
        expected = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(row.starts_at))
        reason = f"{reason}; expected to start {expected}"
    return JobStatus(state=state, reason=reason)


def judge(ref: JobRef, row: Row | None, traces: Traces) -> JobStatus:
    """Return the state of a job after a second look."""
    status = _judge(ref, row, traces)
    if not traces.used_up_memory or traces.markers.cancelled or status.state not in _BAD_ENDS:
        return status
    reason, record = end_of("OUT_OF_MEMORY"), traces.markers.exit
    if record is not None and record.reason == "exit":
        reason = f"{status.reason}; {reason}"
    return replace(status, state=JobState.FAILED, reason=reason)


def _judge(ref: JobRef, row: Row | None, traces: Traces) -> JobStatus:
    marks = traces.markers
    accounted = choose(traces.accounts, traces.job, ref.native_id) if traces.accounts else None
    if marks.exit is not None:
        return _with_record(marks.exit, row or accounted, traces, listed=row is not None)
    if marks.trouble:
        return JobStatus(state=JobState.UNKNOWN, reason=marks.trouble)
    claim = marks.claim(traces.place)
    if claim is not None and claim.seen_from(traces.place) is Where.NOWHERE:
        return _never_ran(ref, claim, cancelled=marks.cancelled)
    if row is not None and (status := live(row)) is not None:
        return status
    return _ended(row or accounted, claim, traces)


def is_forgotten(ref: JobRef, row: Row | None, traces: Traces) -> bool:
    """Whether nothing is left of a job that never began, so that its claim may be taken away."""
    return (
        row is None
        and traces.accounts is not None
        and not traces.accounts
        and traces.markers.directory
        and traces.markers.started is None
        and traces.markers.exit is None
        and not traces.markers.trouble
        and ref.native_id is not None
        and traces.missing_s is not None
        and traces.missing_s > traces.settle_s
    )


def _with_record(record: ExitRecord, row: Row | None, traces: Traces, *, listed: bool) -> JobStatus:
    """Return the state of a job that left a record; that it was killed Slurm can explain."""
    status = evidence.ended(record, cancelled=traces.markers.cancelled)
    if record.reason != "signal" or status.state is JobState.CANCELLED or row is None:
        return status
    if row.state in _KILLED:
        return replace(status, reason=end_of(row.state, row.reason))
    if row.state == "CANCELLED":
        return replace(status, state=JobState.CANCELLED, reason=end_of(row.state, row.reason))
    if row.state in ENDED or not listed:
        return status
    if state_of(row.state) is JobState.PENDING:
        again = "; Slurm has put it back into its queue, it will not be run again"
        return replace(status, reason=f"{status.reason}{again}")
    # why it was killed Slurm says only when it has cleaned up
    reason = meanwhile("COMPLETING")
    return JobStatus(state=JobState.RUNNING, started_at=record.start, reason=reason)


def _never_ran(ref: JobRef, claim: Claim, *, cancelled: bool) -> JobStatus:
    if cancelled:
        return JobStatus(state=JobState.CANCELLED, ended_at=claim.epoch, reason="cancelled")
    # of a task that is cancelled by hand while it waits neither list nor accounting keep anything
    why = "Slurm forgot the job" if ref.array is None else "Slurm forgot or cancelled the job"
    return JobStatus(
        state=JobState.LOST,
        ended_at=claim.epoch,
        reason=f"{why} before it began; it will not begin any more",
    )


def _ended(row: Row | None, claim: Claim | None, traces: Traces) -> JobStatus:
    """Return the state of a job that Slurm does not list as live and that left no record."""
    if row is not None and row.state not in ENDED:
        return JobStatus(state=JobState.UNKNOWN, reason=f"only accounting says {row.state}")
    if row is not None and row.state != "COMPLETED":
        return JobStatus(
            state=state_of(row.state),
            started_at=row.starts_at,
            ended_at=row.ends_at,
            reason=end_of(row.state, row.reason),
        )
    if traces.accounts is None:
        silent = "Slurm does not list it any more, and its accounting does not answer"
        return JobStatus(state=JobState.UNKNOWN, reason=silent)
    if row is None and traces.missing_s is None:
        return JobStatus(state=JobState.UNKNOWN, reason="never submitted, as far as is known")
    says = f"Slurm says {row.state}" if row else "Slurm does not list it any more"
    if claim is not None and (traces.missing_s or 0) > _PATIENCE * traces.settle_s:
        return JobStatus(
            state=JobState.LOST,
            started_at=claim.epoch or None,
            reason=f"{says}, and it left no exit record",
        )
    return JobStatus(state=JobState.UNKNOWN, reason=f"{says}; its exit record is looked for")
