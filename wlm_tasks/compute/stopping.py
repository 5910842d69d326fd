"""Ending a job's processes for certain: its stop signal, once, a grace, then KILL.

A grace may be an hour long, and nobody waits here for that. A call looks, does what is due and
leaves soon; the next one, by whatever process, goes on from the notes in the attempt's file
``asked``. Only a call that comes near the end of the grace stays for it, so that KILL is in time.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from wlm_tasks.compute import processes
from wlm_tasks.compute.attempt import Attempt, Claim, Where
from wlm_tasks.compute.job_script import stop_signal
from wlm_tasks.compute.processes import Process
from wlm_tasks.errors import JobRejectedError

#: seconds in which KILL has to work, and from which on the job's guard gets it too
_KILL_S: Final = 2.0
_GUARD_KILL_S: Final = 1.5
#: seconds before the end of the grace from which on a call stays: more than there are between calls
_NEAR_S: Final = 4.0
#: seconds in which most jobs end that were sent a signal
_MOMENT_S: Final = 1.0
#: between two looks of which both must find nothing: a process in the middle of exec(2) has no
#: environment for a moment
_SECOND_LOOK_S: Final = 0.02
#: between looks: each goes through all processes of the host
_FIRST_LOOK_S: Final = 0.05
_SLOWEST_LOOK_S: Final = 0.5

_Identity = tuple[int, int]  # pid and start time


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


class Asked:
    """Who was sent the stop signal, and since when: notes that outlive whoever cancels."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._path = attempt.file("asked")
        self.told: set[_Identity] = set()
        self.since: float | None = None  #: seconds after the boot, on a clock that nobody sets

    def read(self) -> None:
        """Add what the file holds, passing over what a kill or a full disk left unfinished."""
        try:
            lines = Path(self._path).read_text(encoding="ascii", errors="replace").splitlines()
        except OSError:
            return
        for line in lines:
            try:
                word, *numbers = line.split()
                if word == "since" and self.since is None:
                    since = float(numbers[0])
                    # noted before the host was restarted, if it is yet to come
                    self.since = since if since <= _uptime() else None
                elif word == "told":
                    self.told.add((int(numbers[0]), int(numbers[1])))
            except (IndexError, ValueError):
                continue

    def begin(self) -> None:
        """Note that the grace begins now."""
        self.since = _uptime()
        if not self._append([f"since {self.since!r}"]):
            # without the note each call would begin anew; the mark's time is there on a full disk
            self.since -= self._attempt.cancelled_for_s()

    def tell(self, identities: Iterable[_Identity]) -> None:
        """Note who is about to be sent the signal: before it, for it must not come twice."""
        new = list(identities)
        self.told.update(new)
        # if there is no room for the note, the signal twice is better than none
        self._append([f"told {pid} {start}" for pid, start in new])

    def grace_left(self, grace_s: float) -> float:
        """Return how much is left of the grace in seconds, below 0 once it is over."""
        return grace_s if self.since is None else self.since + grace_s - _uptime()

    def _append(self, lines: list[str]) -> bool:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        # a line of its own, also behind one that was left unfinished
        data = "".join(f"\n{line}\n" for line in lines).encode()
        try:
            fd = os.open(self._path, flags | os.O_NONBLOCK, 0o600)
        except OSError:
            return False
        try:
            return os.write(fd, data) == len(data)
        except OSError:
            return False
        finally:
            os.close(fd)


def _uptime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Stopper:
    """One call to end one job, which waits for that `wait_s` seconds at most."""

    def __init__(self, attempt: Attempt, claim: Claim | None, wait_s: float) -> None:
        self._attempt = attempt
        self._ref = attempt.ref
        self._payload = attempt.file("payload.sh")
        self._claim = claim
        self._wait_s = wait_s
        self._leader = leader_of(claim)
        try:
            self._signal = stop_signal(self._ref.stop_signal)
        except JobRejectedError:
            self._signal = signal.SIGTERM
        self._asked = Asked(attempt)

    def run(self) -> bool:
        """Return True once nothing of the job lives, False when it is not worth waiting longer."""
        begun = time.monotonic()
        end: float | None = None
        pause = _FIRST_LOOK_S
        self._asked.read()
        while found := members(self._ref.token, self._claim):
            left, spoke = self._go_on(found)
            if end is None:
                end = begun + min(self._wait_s, _worth_waiting(left, spoke=spoke))
            rest = end - time.monotonic()
            if rest <= 0:
                return False
            if left > 0:
                rest = min(rest, left)
            time.sleep(min(pause, rest))
            pause = min(1.5 * pause, _SLOWEST_LOOK_S) if left > pause else _FIRST_LOOK_S
        return True

    def _go_on(self, found: dict[int, Process]) -> tuple[float, bool]:
        """Do what is due; return the rest of the grace in seconds and whether anybody was told."""
        grace_s = max(0.0, self._ref.stop_grace_s)
        left = self._asked.grace_left(grace_s)
        if left > 0:
            return left, self._ask(found)
        self._kill(found, guard_too=-left > _GUARD_KILL_S)
        return left, True

    def _ask(self, found: dict[int, Process]) -> bool:
        """Send the stop signal once to each, but not to what a process starts on its way out.

        The guard and its ``timeout`` stay: they end by themselves and leave the evidence.
        """
        if self._asked.since is not None and not self._untold(found):
            return False
        with self._attempt.locked(self._wait_s):  # another may be at it
            self._asked.read()
            if self._asked.since is None:
                self._asked.begin()
            new = self._untold(found)
            self._asked.tell((process.pid, process.start) for process in new)
        # stopped processes act on a signal only when they go on
        processes.send(new, self._signal, signal.SIGCONT)
        return True

    def _untold(self, found: dict[int, Process]) -> list[Process]:
        told = self._asked.told
        before = {pid for pid, _start in told}
        return [
            process
            for process in found.values()
            if (process.pid, process.start) not in told
            and process.parent not in before
            and not self._stays(process)
        ]

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


def _worth_waiting(left: float, *, spoke: bool) -> float:
    """Return how long a call stays, in seconds, when so much of the grace is left."""
    if left > _NEAR_S:
        return _MOMENT_S if spoke else 0.0
    return max(left + _KILL_S, _MOMENT_S)
