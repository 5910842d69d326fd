"""How a job stands by its tasks, the generations of its one instance. Pure.

A task that ended is often not the end: Aurora starts a successor of one that was lost, preempted
or drained, and the successor names it as its ancestor. Only the task that nobody names counts as
the newest. The guard lets one generation run the payload, the one that made the claim; the others
find the claim taken and end well without having done anything. So the end of the newest says
nothing of how the payload ended; that says the exit record, and where there is none, this module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from wlm_tasks.compute.aurora.wire import text
from wlm_tasks.compute.base import JobState, JobStatus

PENDING, STARTING, RUNNING, FINISHED, FAILED, KILLED, KILLING, LOST = range(8)
ASSIGNED, INIT, RESTARTING, PREEMPTING, THROTTLED, DRAINING, PARTITIONED = 9, 11, 12, 13, 16, 17, 18

#: what a task that has not ended is to us, and words that say more
_ACTIVE: Final[dict[int, tuple[JobState, str]]] = {
    INIT: (JobState.PENDING, ""),
    PENDING: (JobState.PENDING, ""),
    THROTTLED: (JobState.PENDING, "held back by Aurora, since it ended soon after its last start"),
    ASSIGNED: (JobState.PENDING, "assigned to an agent"),
    STARTING: (JobState.PENDING, "its sandbox is made"),
    RUNNING: (JobState.RUNNING, ""),
    KILLING: (JobState.RUNNING, "it is being killed"),
    RESTARTING: (JobState.RUNNING, "it is being restarted"),
    PREEMPTING: (JobState.RUNNING, "it makes room for a more urgent one"),
    DRAINING: (JobState.RUNNING, "its agent is being drained"),
    PARTITIONED: (JobState.RUNNING, "its agent cannot be reached by Mesos"),
}
#: the statuses of a task that has not ended, but for one that older Auroras do not know
COUNTED: Final = frozenset(_ACTIVE) - {PARTITIONED}
#: those of a task that has not begun
WAITING: Final = frozenset(s for s, (state, _) in _ACTIVE.items() if state is JobState.PENDING)
_ENDED: Final = {FINISHED: "FINISHED", FAILED: "FAILED", KILLED: "KILLED", LOST: "LOST"}
#: a task that was in no other state than these was on no agent
_BEFORE_ANY_AGENT: Final = frozenset({INIT, PENDING, THROTTLED})
UNSEEN: Final = "the agent was lost; the payload may run on it until its time limit is over"


@dataclass(frozen=True, slots=True)
class Generation:
    """One task of a job."""

    task_id: str
    status: int
    instance: int = 0
    ancestor: str = ""
    seen: frozenset[int] = frozenset()  #: every status it has been in
    message: str = ""  #: of its last event that has one
    running_at: float | None = None  #: when it first ran
    ended_at: float | None = None
    host: str = ""  #: of the agent
    agent_id: str = ""

    @property
    def ended(self) -> bool:
        """Whether it never runs again."""
        return self.status in _ENDED

    @property
    def was_on_an_agent(self) -> bool:
        """Whether it may have started anything."""
        return not ({self.status, *self.seen} <= _BEFORE_ANY_AGENT)

    @property
    def words(self) -> str:
        """How it ended, in Aurora's words."""
        name = _ENDED.get(self.status, str(self.status))
        return f"Aurora says {name}" + (f": {self.message}" if self.message else "")


def read(task: Any) -> Generation:
    """Return what counts of a ``ScheduledTask``; raises `ValueError` for one without sense."""
    assigned, status = task.assignedTask, task.status
    if assigned is None or not assigned.taskId or assigned.task is None or status is None:
        raise ValueError("a task without an id, a job or a status")
    events = task.taskEvents or ()
    said = [words for event in events if (words := text(event.message))]
    return Generation(
        task_id=text(assigned.taskId),
        status=status,
        instance=assigned.instanceId or 0,
        ancestor=text(task.ancestorId),
        seen=frozenset(event.status for event in events if event.status is not None),
        message=said[-1] if said else "",
        running_at=_running_at(events),
        ended_at=_ended_at(events) if status in _ENDED else None,
        host=text(assigned.slaveHost),
        agent_id=text(assigned.slaveId),
    )


def _running_at(events: Sequence[Any]) -> float | None:
    times = (event.timestamp for event in events if event.status == RUNNING)
    first = next((time for time in times if time is not None), None)
    return None if first is None else first / 1000


def _ended_at(events: Sequence[Any]) -> float | None:
    last = events[-1].timestamp if events else None
    return None if last is None else last / 1000


def newest(generations: Sequence[Generation]) -> list[Generation]:
    """Return the tasks that are nobody's ancestor: of each instance the one that counts."""
    ancestors = {(one.instance, one.ancestor) for one in generations if one.ancestor}
    return [one for one in generations if (one.instance, one.task_id) not in ancestors]


def of_active(generation: Generation) -> JobStatus:
    """Return the state of a task that has not ended; UNKNOWN for one of a newer scheduler."""
    unknown = (JobState.UNKNOWN, f"Aurora says status {generation.status}, which is not known here")
    state, reason = _ACTIVE.get(generation.status, unknown)
    return JobStatus(state=state, reason=reason)


def claimed(
    generations: Sequence[Generation], *, since: float | None, limit_over: Callable[[], bool]
) -> JobStatus:
    """Judge a job whose payload was started at `since` and left no exit record.

    `limit_over` says whether its time limit ended some while ago, so that nothing of it runs
    wherever it is.
    """
    on_agents = [one for one in generations if one.was_on_an_agent]
    for one in on_agents:
        if not one.ended:
            state, reason = of_active(one).state, of_active(one).reason
            reason = "" if state is JobState.PENDING else reason  # it is behind the claim
            return JobStatus(state=JobState.RUNNING, started_at=since, reason=reason)
    if not confirmed(on_agents) and not limit_over():
        reason = UNSEEN if on_agents else "Aurora no longer lists it; its exit record is missing"
        return JobStatus(state=JobState.RUNNING, started_at=since, reason=reason)
    return _without_record(on_agents, since)


def confirmed(generations: Sequence[Generation]) -> bool:
    """Whether agents said that all that ran has ended; of a lost task none did."""
    on_agents = [one for one in generations if one.was_on_an_agent]
    return bool(on_agents) and all(one.ended and one.status != LOST for one in on_agents)


def _without_record(on_agents: Sequence[Generation], since: float | None) -> JobStatus:
    # those that find the claim taken end well, so one that failed is the payload's own
    failed = next((one for one in on_agents if one.status == FAILED), None)
    last = failed or (on_agents[-1] if on_agents else None)
    words = last.words if last else "Aurora no longer lists it"
    return JobStatus(
        state=JobState.FAILED if failed else JobState.LOST,
        started_at=since,
        ended_at=last.ended_at if last else None,
        reason=words if failed else f"{words}; it left no exit record",
    )


def unclaimed(generations: Sequence[Generation]) -> JobStatus:
    """Judge a job with tasks whose payload was not started; what has ended must never claim."""
    heads = newest(generations) or list(generations)
    for one in heads:
        if not one.ended:
            return of_active(one)
    last = next((one for one in heads if one.status == FAILED), heads[-1])
    return JobStatus(
        state=JobState.FAILED if last.status == FAILED else JobState.LOST,
        ended_at=last.ended_at,
        reason=f"{last.words}; its payload was not started: does {last.host or 'the agent'}"
        " see the site's scratch directory, as the same user?",
    )
