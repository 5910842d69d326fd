"""How a job stands by its tasks: successors, losses, states that are not known."""

from __future__ import annotations

import pytest

from wlm_tasks.compute.aurora import generations as of
from wlm_tasks.compute.aurora.generations import Generation, claimed, confirmed, newest, unclaimed
from wlm_tasks.compute.base import JobState, JobStatus

ON_AGENT = frozenset({of.PENDING, of.ASSIGNED, of.STARTING, of.RUNNING})


def task(task_id: str, status: int, ancestor: str = "", **more: object) -> Generation:
    fields = {"seen": ON_AGENT, **more}
    return Generation(task_id=task_id, status=status, ancestor=ancestor, **fields)  # type: ignore[arg-type]


def judge(*tasks: Generation, over: bool = False) -> JobStatus:
    return claimed(tasks, since=5.0, limit_over=lambda: over)


def test_only_what_nobody_names_as_ancestor_counts() -> None:
    first, second, third = task("a", of.LOST), task("b", of.LOST, "a"), task("c", of.RUNNING, "b")
    assert newest([second, third, first]) == [third]
    other = task("d", of.PENDING, "a", instance=1)
    assert newest([first, other]) == [first, other]


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (of.INIT, JobState.PENDING),
        (of.PENDING, JobState.PENDING),
        (of.THROTTLED, JobState.PENDING),
        (of.ASSIGNED, JobState.PENDING),
        (of.STARTING, JobState.PENDING),
        (of.RUNNING, JobState.RUNNING),
        (of.KILLING, JobState.RUNNING),
        (of.RESTARTING, JobState.RUNNING),
        (of.PREEMPTING, JobState.RUNNING),
        (of.DRAINING, JobState.RUNNING),
        (of.PARTITIONED, JobState.RUNNING),
        (99, JobState.UNKNOWN),
        (-1, JobState.UNKNOWN),
    ],
)
def test_active_states(status: int, state: JobState) -> None:
    assert unclaimed([task("a", of.LOST), task("b", status, "a")]).state is state


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (of.FINISHED, JobState.LOST),  # without the guard's word it is no success
        (of.FAILED, JobState.FAILED),
        (of.KILLED, JobState.LOST),
    ],
)
def test_an_end_without_an_exit_record(status: int, state: JobState) -> None:
    ended = judge(task("a", status, message="Memory limit exceeded", ended_at=7.0))
    assert ended.state is state
    assert "Memory limit exceeded" in ended.reason
    assert (ended.started_at, ended.ended_at) == (5.0, 7.0)


def test_a_payload_on_a_lost_agent_may_run_until_its_limit() -> None:
    tasks = [task("a", of.LOST), task("b", of.FINISHED, "a")]
    assert judge(*tasks).state is JobState.RUNNING
    assert "agent was lost" in judge(*tasks).reason
    assert judge(*tasks, over=True).state is JobState.LOST
    assert not confirmed(tasks)


def test_a_successor_that_waits_does_not_keep_a_job_alive() -> None:
    waiting = task("b", of.PENDING, "a", seen=frozenset({of.PENDING}))
    assert judge(task("a", of.KILLED), waiting).state is JobState.LOST
    assert judge(task("a", of.KILLED), task("b", of.RUNNING, "a")).state is JobState.RUNNING
    assert confirmed([task("a", of.KILLED), waiting])


def test_a_job_that_aurora_no_longer_lists() -> None:
    assert judge().state is JobState.RUNNING
    assert judge(over=True).state is JobState.LOST
    assert not confirmed([])


def test_an_end_before_the_payload_began() -> None:
    failed = unclaimed([task("a", of.FAILED, message="no such user", host="agent7")])
    assert failed.state is JobState.FAILED
    assert "no such user" in failed.reason
    assert "does agent7 see the site's scratch directory" in failed.reason
    assert unclaimed([task("a", of.KILLED)]).state is JobState.LOST
    assert unclaimed([task("a", of.FINISHED)]).state is JobState.LOST


def test_two_first_generations_and_a_circle() -> None:
    """Both copies of a job created twice count; nothing hangs on what makes no sense."""
    assert unclaimed([task("a", of.FINISHED), task("b", of.RUNNING)]).state is JobState.RUNNING
    circle = [task("a", of.LOST, "b"), task("b", of.LOST, "a")]
    assert unclaimed(circle).state is JobState.LOST
