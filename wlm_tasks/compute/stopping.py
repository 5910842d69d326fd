"""Ending a job's processes for certain."""

from __future__ import annotations

import signal
import time
from typing import Final

from wlm_tasks.compute import processes
from wlm_tasks.compute.attempt import Attempt, Claim, Where
from wlm_tasks.compute.job_script import stop_signal
from wlm_tasks.compute.processes import Process
from wlm_tasks.errors import JobRejectedError

#: seconds in which KILL has to work, and from which on the job's guard gets it too
_KILL_S: Final = 4.0
_GUARD_KILL_S: Final = 1.5
#: between two looks of which both must find nothing: a process in the middle of exec(2) has no
#: environment for a moment
_SECOND_LOOK_S: Final = 0.02
_SLOWEST_LOOK_S: Final = 0.1


def leader_of(claim: Claim | None) -> tuple[int, int] | None:
    """Pid and start time of the job's session leader, its guard, if that can be looked for here."""
    if claim is None or claim.where is not Where.HERE:
        return None
    return claim.pid, claim.start


def members(token: str, claim: Claim | None) -> dict[int, Process]:
    """Return the processes of the job that live, by pid; empty only after two looks."""
    leader = leader_of(claim)
    found = processes.scan().of_job(token, leader)
    if not found:
        time.sleep(_SECOND_LOOK_S)
        found = processes.scan().of_job(token, leader)
    return found


class Stopper:
    """One attempt to end one job: its stop signal, a grace, then KILL."""

    def __init__(self, attempt: Attempt, claim: Claim | None) -> None:
        self._ref = attempt.ref
        self._payload = attempt.file("payload.sh")
        self._claim = claim
        self._leader = leader_of(claim)
        try:
            self._signal = stop_signal(self._ref.stop_signal)
        except JobRejectedError:
            self._signal = signal.SIGTERM
        self._told: set[tuple[int, int]] = set()

    def run(self) -> bool:
        """Return True once nothing of the job lives, False after the grace and a few seconds."""
        killing = time.monotonic() + max(0.0, self._ref.stop_grace_s)
        pause = 0.005
        while found := members(self._ref.token, self._claim):
            late = time.monotonic() - killing
            if late > _KILL_S:
                return False
            if late < 0:
                self._ask(found)
            else:
                self._kill(found, guard_too=late > _GUARD_KILL_S)
            time.sleep(pause)
            pause = min(2 * pause, _SLOWEST_LOOK_S)
        return True

    def _ask(self, found: dict[int, Process]) -> None:
        """Send the stop signal once to each, but not to what a process starts on its way out.

        The guard and its ``timeout`` stay: they end by themselves and leave the evidence.
        """
        before = {pid for pid, _start in self._told}
        for process in found.values():
            identity = (process.pid, process.start)
            if identity in self._told or process.parent in before or self._stays(process):
                continue
            # stopped processes act on a signal only when they go on
            processes.send([process], self._signal, signal.SIGCONT)
            self._told.add(identity)

    def _kill(self, found: dict[int, Process], *, guard_too: bool) -> None:
        processes.send(
            (p for p in found.values() if guard_too or not self._is_guard(p)), signal.SIGKILL
        )

    def _is_guard(self, process: Process) -> bool:
        return (process.pid, process.start) == self._leader

    def _stays(self, process: Process) -> bool:
        if self._is_guard(process):
            return True
        command = processes.command_line(process.pid)
        return command[-1:] == [self._payload] and command[0].rpartition("/")[2] == "timeout"
