"""How jobs without a shared scratch are judged: what counts, and what is never a success."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.processes import wait_for
from wlm_tasks.compute.attempt import ExitRecord
from wlm_tasks.compute.aurora.alone import begun_again, judge
from wlm_tasks.compute.aurora.generations import (
    FAILED,
    FINISHED,
    KILLED,
    LOST,
    PARTITIONED,
    PENDING,
    RUNNING,
    Generation,
)
from wlm_tasks.compute.aurora.notes import Notes, Patience
from wlm_tasks.compute.base import JobRef, JobState

SEEN = frozenset({PENDING, RUNNING})
ENDED = {FINISHED, FAILED, KILLED, LOST}


def chain(*statuses: int, waiting: bool = False) -> list[Generation]:
    """Tasks each of which follows the one before; with `waiting` the last was on no agent."""
    found = []
    for number, status in enumerate(statuses):
        last = number == len(statuses) - 1
        found.append(
            Generation(
                task_id=str(number),
                status=status,
                ancestor=str(number - 1) if number else "",
                seen=frozenset() if waiting and last else SEEN,
                message=f"words of {number}",
                running_at=1.0 + number,
                ended_at=5.0 if status in ENDED else None,
            )
        )
    return found


CASES = [
    # statuses, mark kept, limit over: state, words
    ((PENDING,), True, False, JobState.PENDING, ""),
    ((RUNNING,), True, False, JobState.RUNNING, ""),
    ((FINISHED,), False, False, JobState.SUCCEEDED, ""),
    ((FAILED,), False, False, JobState.FAILED, "Aurora says FAILED: words of 0"),
    ((KILLED,), False, False, JobState.FAILED, "Aurora says KILLED: words of 0"),
    ((LOST,), False, False, JobState.RUNNING, "the agent was lost"),
    ((LOST,), False, True, JobState.LOST, "Aurora says LOST: words of 0"),
    ((PARTITIONED,), True, False, JobState.RUNNING, "cannot be reached"),
    ((PARTITIONED,), True, True, JobState.LOST, "Aurora says LOST"),
    ((LOST, RUNNING), True, False, JobState.RUNNING, ""),
    ((LOST, FINISHED), False, False, JobState.SUCCEEDED, ""),
    ((LOST, FAILED), True, False, JobState.RUNNING, "the agent was lost"),
    ((LOST, FAILED), True, True, JobState.LOST, "Aurora says LOST: words of 0"),
    ((LOST, FAILED), False, True, JobState.FAILED, "Aurora says FAILED: words of 1"),
    ((LOST, KILLED), False, True, JobState.LOST, "Aurora says LOST: words of 0"),
    ((KILLED, FAILED), True, False, JobState.FAILED, "Aurora says FAILED: words of 1"),
]


@pytest.mark.parametrize(("statuses", "marked", "over", "state", "words"), CASES)
def test_without_a_record(
    statuses: tuple[int, ...], marked: bool, over: bool, state: JobState, words: str
) -> None:
    status = judge(
        chain(*statuses), record=None, cancelled=False, marked=marked, limit_over=lambda: over
    )
    assert status.state is state
    assert words in status.reason
    assert (status.exit_code == 0) is (state is JobState.SUCCEEDED)
    assert status.started_at == 1.0


@pytest.mark.parametrize("statuses", [(LOST, FAILED), (LOST,), (KILLED,), (FAILED,)])
def test_a_record_tells_more(statuses: tuple[int, ...]) -> None:
    """But never of a good end when all that Aurora ever said is that it failed."""

    def judged(record: ExitRecord, *, cancelled: bool = False) -> JobState:
        return judge(
            chain(*statuses),
            record=record,
            cancelled=cancelled,
            marked=True,
            limit_over=lambda: False,
        ).state

    good = JobState.FAILED if statuses == (FAILED,) else JobState.SUCCEEDED
    assert judged(ExitRecord(0, 1.0, 2.0, "exit")) is good
    assert judged(ExitRecord(3, 1.0, 2.0, "exit")) is JobState.FAILED
    assert judged(ExitRecord(None, None, 2.0, "outputs[0].src: x")) is JobState.FAILED
    assert judged(ExitRecord(143, 1.0, 2.0, "signal"), cancelled=True) is JobState.CANCELLED


@pytest.mark.parametrize(
    ("statuses", "over", "state"),
    [
        ((KILLED,), False, JobState.CANCELLED),
        ((LOST,), False, JobState.RUNNING),
        ((LOST,), True, JobState.CANCELLED),
    ],
)
def test_a_cancel(statuses: tuple[int, ...], over: bool, state: JobState) -> None:
    found = chain(*statuses)
    status = judge(found, record=None, cancelled=True, marked=False, limit_over=lambda: over)
    assert status.state is state


def test_which_task_is_a_second_run() -> None:
    assert begun_again(chain(LOST, PENDING, waiting=True))
    assert begun_again(chain(KILLED, RUNNING))
    assert not begun_again(chain(LOST, KILLED))
    assert not begun_again(chain(RUNNING))
    never_placed = Generation(task_id="0", status=LOST, seen=frozenset({PENDING}))
    after = Generation(task_id="1", status=RUNNING, ancestor="0")
    assert begun_again([never_placed, after])


def test_tasks_out_of_sight_have_the_whole_limit_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wlm_tasks.compute.aurora.notes._SILENCE_S", 0.0)
    notes = Notes(JobRef(token="t1", workdir=str(tmp_path)), Patience())
    with notes.locked():
        notes.write("limit", "0.0")
        assert not notes.unseen_over("0")
        wait_for(lambda: notes.unseen_over("0"), what="its limit")
        assert not notes.unseen_over("1")  # it may have begun when the limit of the first was over
        wait_for(lambda: notes.unseen_over("1"), what="its limit")
