"""The calls, answered as a scheduler does."""

from __future__ import annotations

import copy
from typing import Any

from services.aurora_peer import rules
from services.aurora_peer.faults import Switches
from services.aurora_peer.machine import Machine


class Handler:
    """What the generated processor calls; the names are the interface's."""

    def __init__(self, types: Any, machine: Machine, switches: Switches) -> None:
        self._types = types
        self._machine = machine
        self._switches = switches

    def createJob(self, description: Any) -> Any:  # noqa: N802
        try:
            self._machine.create(description)
        except rules.RefusedError as error:
            return self._answer(0, message=str(error))
        return self._answer(1)

    def killTasks(self, job: Any, instances: Any, message: Any) -> Any:  # noqa: N802
        try:
            asked = self._machine.kill(job, instances)
        except rules.RefusedError as error:
            return self._answer(0, message=str(error))
        return self._answer(1, message=None if asked else "No tasks to kill.")

    def getTasksStatus(self, query: Any) -> Any:  # noqa: N802
        return self._tasks(self._machine.query(query))

    def getTasksWithoutConfigs(self, query: Any) -> Any:  # noqa: N802
        if query.role and self._switches.now.no_roles:
            return self.refusal(2)
        found = [copy.deepcopy(record) for record in self._machine.query(query)]
        for record in found:
            record.assignedTask.task.executorConfig.data = None
            strange = self._switches.now.strange_status
            if strange is not None and self._machine.name_of(record) == "RUNNING":
                record.status = strange
        return self._tasks(found)

    def getPendingReason(self, query: Any) -> Any:  # noqa: N802
        if query.statuses or query.slaveHosts:
            return self._answer(0, message="Statuses or slaveHosts are not supported in this query")
        reasons = {
            self._types.PendingReason(
                taskId=record.assignedTask.taskId, reason=self._switches.now.pending_reason
            )
            for record in self._machine.query(query)
            if self._machine.name_of(record) == "PENDING"
        }
        result = self._types.GetPendingReasonResult(reasons=reasons)
        return self._answer(1, getPendingReasonResult=result)

    def getTierConfigs(self) -> Any:  # noqa: N802
        tiers = {self._types.TierConfig(name=name, settings={}) for name in rules.TIERS}
        result = self._types.GetTierConfigResult(defaultTierName="preemptible", tiers=tiers)
        return self._answer(1, getTierConfigResult=result)

    def refusal(self, code: int) -> Any:
        """An answer with any code."""
        return self._answer(code, message=f"answered with {code}")

    def _tasks(self, records: list[Any]) -> Any:
        result = self._types.ScheduleStatusResult(tasks=records)
        return self._answer(1, scheduleStatusResult=result)

    def _answer(self, code: int, *, message: str | None = None, **result: Any) -> Any:
        types = self._types
        return types.Response(
            responseCode=code,
            result=types.Result(**result) if result else None,
            serverInfo=types.ServerInfo(clusterName="peer", statsUrlPrefix=""),
            details=[types.ResponseDetail(message=message)] if message else [],
        )


class Guarded:
    """A handler that answers with a code in place of doing what was asked, where told to."""

    def __init__(self, handler: Handler, switches: Switches) -> None:
        self._handler = handler
        self._switches = switches

    def __getattr__(self, method: str) -> Any:
        def call(*arguments: Any) -> Any:
            code = self._switches.code(method)
            if code is None and self._switches.now.forbidden and not method.startswith("get"):
                code = 4
            if code is not None:
                return self._handler.refusal(code)
            return getattr(self._handler, method)(*arguments)

        return call
