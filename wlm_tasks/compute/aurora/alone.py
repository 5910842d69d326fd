"""How a job without a shared scratch stands by its tasks. Pure.

No claim keeps a second generation from running the payload; at most a mark at the site's
``upload_url`` does. So evidence is the uploaded exit record, then Aurora's own word: FINISHED says
that every process ended well, the payload and the uploads of outputs among them, and where FAILED
is all it says, no record makes that a success. A task that was lost told nothing, and its payload
may go on out of sight until its time limit is over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from wlm_tasks.compute import evidence
from wlm_tasks.compute.attempt import ExitRecord
from wlm_tasks.compute.aurora.generations import (
    FAILED,
    FINISHED,
    LOST,
    PARTITIONED,
    UNSEEN,
    Generation,
    confirmed,
    newest,
    of_active,
)
from wlm_tasks.compute.base import JobState, JobStatus


def begun_again(found: Sequence[Generation]) -> bool:
    """Whether a task is active though another before it may have run the payload."""
    ran = {(one.instance, one.task_id) for one in found if one.was_on_an_agent}
    return any((one.instance, one.ancestor) in ran for one in newest(found) if not one.ended)


def credible(found: Sequence[Generation], record: ExitRecord) -> bool:
    """Whether a record may be true: none of a good end is if no task ended but in a failure."""
    ran = [one for one in found if one.was_on_an_agent]
    good = record.reason == "exit" and record.code == 0
    return not (good and ran and all(one.status == FAILED for one in ran))


def judge(
    found: Sequence[Generation],
    *,
    record: ExitRecord | None,
    cancelled: bool,
    marked: bool,
    limit_over: Callable[[], bool],
) -> JobStatus:
    """Judge a job that has tasks.

    `record` is what it uploaded, `marked` whether its site has an ``upload_url``. `limit_over`
    is asked only of a payload out of sight: whether it must have ended where it is.
    """
    heads = newest(found) or list(found)
    ran = [one for one in found if one.was_on_an_agent]
    since = min((one.running_at for one in ran if one.running_at is not None), default=None)
    if record is not None and not credible(found, record):
        record = None
    if record is not None and all(one.ended for one in heads):
        return evidence.ended(record, cancelled=cancelled)
    for one in heads:
        if not one.ended and not (one.status == PARTITIONED and limit_over()):
            return replace(of_active(one), started_at=since)
    good = next((one for one in heads if one.status == FINISHED), None)
    if good is None and ran and not confirmed(ran) and not limit_over():
        return JobStatus(state=JobState.RUNNING, started_at=since, reason=UNSEEN)
    if cancelled:
        return JobStatus(state=JobState.CANCELLED, started_at=since, reason="cancelled")
    if good is not None:
        return JobStatus(
            state=JobState.SUCCEEDED, exit_code=0, started_at=since, ended_at=good.ended_at
        )
    return _ended_badly(found, since, marked=marked)


def _ended_badly(found: Sequence[Generation], since: float | None, *, marked: bool) -> JobStatus:
    lost = next((one for one in found if one.status in {LOST, PARTITIONED}), None)
    failed = next((one for one in found if one.status == FAILED), None)
    # with a mark, what follows a lost task fails without having run anything
    last = (lost or failed) if marked else (failed or lost)
    last = last or newest(found)[-1]
    if last is lost:
        words = "Aurora says LOST" if lost.status == PARTITIONED else lost.words
        return JobStatus(
            state=JobState.LOST,
            started_at=since,
            ended_at=lost.ended_at,
            reason=f"{words}; it left no exit record",
        )
    return JobStatus(
        state=JobState.FAILED, started_at=since, ended_at=last.ended_at, reason=last.words
    )
