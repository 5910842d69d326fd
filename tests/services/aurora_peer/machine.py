"""Tasks and their states, as the scheduler keeps them."""

from __future__ import annotations

import math
import threading
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from services.aurora_peer import rules
from services.aurora_peer.executor import Run
from services.aurora_peer.faults import Switches

ENDED: Final = frozenset({"FINISHED", "FAILED", "KILLED", "LOST"})
#: the way up, and the state after each
_NEXT: Final = {"PENDING": "ASSIGNED", "ASSIGNED": "STARTING", "STARTING": "RUNNING"}
_TICK_S: Final = 0.005
_AGENT: Final = "agent.example"


@dataclass
class Task:
    """One task: what is told of it, and what only the scheduler knows."""

    record: Any
    due: float  #: when it moves on
    run: Run | None = None
    successor_due: bool = False  #: it is ended without having been asked to
    placed: bool = False  #: it was put into its state


class Machine:
    """All tasks. Every public method may be called from any thread."""

    def __init__(self, types: Any, switches: Switches, directory: Path) -> None:
        self._types = types
        self._names = types.ScheduleStatus._VALUES_TO_NAMES
        self._switches = switches
        self._directory = directory
        self._tasks: dict[str, Task] = {}
        self._lock = threading.RLock()
        threading.Thread(target=self._tick_for_ever, daemon=True).start()

    def create(self, job: Any) -> None:
        """Take a job, unless a task of its key is active."""
        with self._lock:
            rules.check_job(job, fetcher=not self._switches.now.no_fetcher)
            if any(not self._ended(task) for task in self._of_key(job.key)):
                key = f"{job.key.role}/{job.key.environment}/{job.key.name}"
                raise rules.RefusedError(f"Job {key} already exists")
            for instance in range(job.instanceCount):
                self._add(job.taskConfig, instance, ancestor=None)

    def kill(self, key: Any, instances: Any) -> int:
        """Have tasks of a job end; returns how many were asked to."""
        with self._lock:
            rules.check_key(key)
            asked = [
                task
                for task in self._of_key(key)
                if not self._ended(task)
                and (not instances or task.record.assignedTask.instanceId in instances)
            ]
            for task in asked:
                if self._name(task) in {"PENDING", "THROTTLED"}:
                    del self._tasks[task.record.assignedTask.taskId]
                elif self._name(task) != "KILLING":
                    self._move(task, "KILLING")
                    task.due = time.monotonic() + self._switches.now.kill_s
            return len(asked)

    def query(self, query: Any) -> list[Any]:
        """The records that a query selects."""
        with self._lock:
            return [task.record for task in self._tasks.values() if _selects(query, task.record)]

    def place(self, others: list[dict[str, str]]) -> None:
        """Have these tasks of others, each in a state that it stays in, and none of those before.

        They have no processes, and are killed like any other.
        """
        with self._lock:
            for task_id in [one for one, task in self._tasks.items() if task.placed]:
                del self._tasks[task_id]
            for other in others:
                key = self._types.JobKey(
                    role=other["role"], environment=other["environment"], name=other["name"]
                )
                config = self._types.TaskConfig(
                    job=key,
                    executorConfig=self._types.ExecutorConfig(name="AuroraExecutor", data="{}"),
                    metadata=set(),
                )
                task = self._add(config, 0, ancestor=None)
                self._move(task, other["status"])
                task.placed, task.due = True, math.inf

    def active(self) -> int:
        """How many tasks have not ended."""
        with self._lock:
            return sum(not self._ended(task) for task in self._tasks.values())

    def name_of(self, record: Any) -> str:
        """The name of a record's state."""
        return str(self._names.get(record.status, "?"))

    def _of_key(self, key: Any) -> list[Task]:
        return [task for task in self._tasks.values() if task.record.assignedTask.task.job == key]

    def _name(self, task: Task) -> str:
        return self.name_of(task.record)

    def _ended(self, task: Task) -> bool:
        return self._name(task) in ENDED

    def _add(self, config: Any, instance: int, ancestor: str | None) -> Task:
        key = config.job
        task_id = f"{key.role}-{key.environment}-{key.name}-{instance}-{uuid.uuid4()}"
        assigned = self._types.AssignedTask(
            taskId=task_id, task=config, instanceId=instance, assignedPorts={}
        )
        record = self._types.ScheduledTask(
            assignedTask=assigned, failureCount=0, taskEvents=[], ancestorId=ancestor
        )
        task = self._tasks[task_id] = Task(record, time.monotonic() + self._switches.now.step_s)
        self._move(task, "PENDING")
        return task

    def _move(self, task: Task, name: str, message: str | None = None) -> None:
        status = self._types.ScheduleStatus._NAMES_TO_VALUES[name]
        task.record.status = status
        task.record.taskEvents.append(
            self._types.TaskEvent(
                timestamp=int(time.time() * 1000), status=status, message=message, scheduler="peer"
            )
        )
        task.due = time.monotonic() + self._switches.now.step_s

    def _tick_for_ever(self) -> None:
        while True:
            time.sleep(_TICK_S)
            with self._lock:
                for task in list(self._tasks.values()):
                    self._tick(task, time.monotonic())

    def _tick(self, task: Task, now: float) -> None:
        name = self._name(task)
        if name in ENDED:
            prune = self._switches.now.prune_after_s
            ended = task.record.taskEvents[-1].timestamp / 1000
            if prune is not None and time.time() >= ended + prune:
                del self._tasks[task.record.assignedTask.taskId]
        elif name in {"KILLING", "PREEMPTING"}:
            self._killing(task, now)
        elif now >= task.due:
            self._go_on(task, name, now)

    def _go_on(self, task: Task, name: str, now: float) -> None:
        switches = self._switches
        if name == "PENDING":
            if switches.now.never_schedule:
                return
            task.record.assignedTask.slaveHost = _AGENT
            task.record.assignedTask.slaveId = "agent-S1"
        if name == "STARTING":
            if switches.strikes("lost_starting"):
                self._end(task, "LOST", "the agent did not answer")
                return
            if switches.now.execute:
                task_id = task.record.assignedTask.taskId
                config = task.record.assignedTask.task
                directory = self._directory / "sandboxes" / task_id
                uris = list(config.mesosFetcherUris or ())
                task.run = Run(task_id, config.executorConfig.data, directory, uris)
        if name != "RUNNING":
            self._move(task, _NEXT[name])
            return
        self._running(task, now)

    def _running(self, task: Task, now: float) -> None:
        faults = self._switches.now
        if now >= task.due + faults.lost_after_s and self._switches.strikes("lost_running"):
            if task.run is not None and not faults.partitioned:
                task.run.die()
            self._end(task, "LOST", "the agent was lost")
        elif now >= task.due + faults.lost_after_s and self._switches.strikes("preempt"):
            task.successor_due = True
            self._move(task, "PREEMPTING", "makes room")
        elif task.run is not None:
            if task.run.result is not None:
                self._end(task, task.run.result, task.run.message or None)
        elif now >= task.due + faults.finish_s:
            self._end(task, faults.outcome, faults.message or None)

    def _killing(self, task: Task, now: float) -> None:
        if now < task.due:
            return
        if task.run is None or task.run.result is not None:
            self._end(task, "KILLED", "Killed")
        elif task.due > 0:
            task.due = 0  # asked once
            task.run.stop(self._switches.now.kill_grace_s)

    def _end(self, task: Task, name: str, message: str | None) -> None:
        self._move(task, name, message)
        config = task.record.assignedTask.task
        failures = task.record.failureCount + (name == "FAILED")
        again = name == "LOST" or (name == "KILLED" and task.successor_due)
        again = again or (name == "FAILED" and failures < config.maxTaskFailures)
        if again:
            self._add(config, task.record.assignedTask.instanceId, task.record.assignedTask.taskId)


def _selects(query: Any, record: Any) -> bool:
    assigned = record.assignedTask
    key = assigned.task.job
    asked = (
        (query.jobKeys, lambda: key in query.jobKeys),
        (query.taskIds, lambda: assigned.taskId in query.taskIds),
        (query.statuses, lambda: record.status in query.statuses),
        (query.instanceIds, lambda: assigned.instanceId in query.instanceIds),
        (query.slaveHosts, lambda: assigned.slaveHost in query.slaveHosts),
        (query.role, lambda: key.role == query.role),
        (query.environment, lambda: key.environment == query.environment),
        (query.jobName, lambda: key.name == query.jobName),
    )
    return all(agrees() for wanted, agrees in asked if wanted)
