"""What may go wrong, and at which pace things go: switched while the peer runs."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass
class Faults:
    """Numbers by method say how many of the next calls are hit. Times are seconds."""

    # the pace
    step_s: float = 0.02  #: between the states on the way to RUNNING
    finish_s: float = 0.05  #: of a task that really runs nothing
    execute: bool = False  #: really run processes
    # the life of tasks
    outcome: str = "FINISHED"  #: of a task that really runs nothing
    message: str = ""  #: of its end
    never_schedule: bool = False
    pending_reason: str = "Insufficient: CPU"
    lost_starting: int = 0  #: so many tasks are lost before they run
    lost_running: int = 0  #: so many while they run
    lost_after_s: float = 0.1
    partitioned: bool = False  #: what is lost goes on running where it is
    preempt: int = 0  #: so many running tasks make room, and are started again
    kill_s: float = 0.0  #: before a killed task is asked to end
    kill_grace_s: float = 2.0
    prune_after_s: float | None = None
    no_roles: bool = False  #: a question for all tasks of a role ends in an error
    strange_status: int | None = None  #: told in place of RUNNING
    no_fetcher: bool = False  #: jobs may not use Mesos's fetcher
    # HTTP and its surroundings
    no_leader: bool = False
    redirect_to: str | None = None  #: root of another scheduler
    credentials: str | None = None  #: USER:PASSWORD without which nothing is changed
    forbidden: bool = False
    page: bool = False  #: a login page in place of every answer
    lost_call: dict[str, int] = field(default_factory=dict)  #: connection cut before it is done
    lost_answer: dict[str, int] = field(default_factory=dict)  #: done, never answered
    broken: dict[str, int] = field(default_factory=dict)  #: HTTP 500
    codes: dict[str, list[int]] = field(default_factory=dict)  #: answered in place of doing it
    hang_s: dict[str, float] = field(default_factory=dict)  #: before each is done


class Switches:
    """The faults in force; a number is used up by whoever it hits."""

    def __init__(self) -> None:
        self.now = Faults()
        self._lock = threading.Lock()

    def set(self, changes: dict[str, Any]) -> None:
        """Change some; unknown names are an error."""
        known = {one.name for one in fields(Faults)}
        if unknown := changes.keys() - known:
            raise ValueError(f"no such fault: {sorted(unknown)}")
        with self._lock:
            for name, value in changes.items():
                setattr(self.now, name, value)

    def hits(self, name: str, method: str) -> bool:
        """Whether the next call of a method is hit."""
        with self._lock:
            left: dict[str, int] = getattr(self.now, name)
            if left.get(method, 0) <= 0:
                return False
            left[method] -= 1
            return True

    def strikes(self, name: str) -> bool:
        """Whether the next task is hit."""
        with self._lock:
            left = getattr(self.now, name)
            if left > 0:
                setattr(self.now, name, left - 1)
            return bool(left > 0)

    def code(self, method: str) -> int | None:
        """The code that is answered in place of doing the next call."""
        with self._lock:
            codes = self.now.codes.get(method)
            return codes.pop(0) if codes else None

    def shown(self) -> dict[str, Any]:
        """All of them."""
        with self._lock:
            return asdict(self.now)
