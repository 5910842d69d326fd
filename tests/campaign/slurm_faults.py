"""Where submissions to Slurm are broken: at each point of the script, in its caller, in between."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from wlm_tasks.errors import BackendUnavailableError
from wlm_tasks.hosts.shell import RUN_TIMEOUT_S, LocalShell, Ran

#: bash that ends the script with all its processes, and its caller too
_GROUP: Final = "kill -9 0"
_CALLER_TOO: Final = "kill -9 $PPID 0"
#: the same a little later; in the background, so without the lock and our outputs
_SOON: Final = "{{ sleep {delay:.3f}; kill -9 {whom}; }} < /dev/null &> /dev/null 9>&- &"


class BreakingShell(LocalShell):
    """Runs `do` in place of a point of the script; `before` and `after` are done by the caller."""

    def __init__(
        self,
        *,
        point: str = "",
        do: str = "",
        before: Callable[[], object] | None = None,
        after: Callable[[], object] | None = None,
    ) -> None:
        self._point, self._do = f": point {point}\n", f"{do}\n"
        self._before, self._after = before, after

    def run(
        self,
        script: str,
        arguments: Sequence[str] = (),
        *,
        stdin: bytes = b"",
        timeout_s: float = RUN_TIMEOUT_S,
    ) -> Ran:
        if self._before is not None:
            self._before()
        if self._do.strip():
            assert script.count(self._point) == 1
            script = script.replace(self._point, self._do)
        ran = super().run(script, arguments, stdin=stdin, timeout_s=timeout_s)
        if self._after is not None:
            self._after()
        return ran


#: makes the shell of one submission; the number is how long a whole one takes here, in seconds
MakeShell = Callable[[random.Random, float], BreakingShell]


@dataclass(frozen=True)
class Fault:
    """What befalls a submission, and those that come after it."""

    name: str
    shells: Sequence[MakeShell]
    certain: bool = True  #: whether each strikes every time, whatever its time


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _at(point: str) -> MakeShell:
    """The script killed at a point, by chance with its caller."""

    def make(chance: random.Random, _whole_s: float) -> BreakingShell:
        return BreakingShell(point=point, do=chance.choice([_GROUP, _CALLER_TOO]))

    return make


def _in_sbatch(whom: str) -> MakeShell:
    """Killed at some time after ``sbatch`` was started; whom: 0 is the group, $$ bash alone."""

    def make(chance: random.Random, whole_s: float) -> BreakingShell:
        delay = chance.uniform(0, 0.4 * whole_s)
        return BreakingShell(point="intended", do=_SOON.format(delay=delay, whom=whom))

    return make


def _caller_at_any_time(chance: random.Random, whole_s: float) -> BreakingShell:
    timer = threading.Timer(chance.uniform(0, whole_s), _die)
    return BreakingShell(before=timer.start)


def _at_some(point: str) -> MakeShell:
    """The same at a point that each member of an array passes, at one or another of them."""

    def make(chance: random.Random, _whole_s: float) -> BreakingShell:
        return BreakingShell(
            point=point, do=f"((RANDOM % 4)) || {chance.choice([_GROUP, _CALLER_TOO])}"
        )

    return make


def _lose_answer() -> None:
    raise BackendUnavailableError("the answer was lost")


FAULTS: Final = (
    Fault("caller, before the script", [lambda *_: BreakingShell(before=_die)]),
    Fault("1 locked", [_at("locked")]),
    Fault("2 written", [_at("written")]),
    Fault("3 intended", [_at("intended")]),
    Fault("4 submitted", [_at("submitted")]),
    Fault("5 recorded", [_at("recorded")]),
    Fault("caller, after the script", [lambda *_: BreakingShell(after=_die)]),
    # a job that has claimed by then needs no look, so that the second does not always strike
    Fault("3, then looked", [_at("intended"), _at("looked")]),
    Fault("4, then looked", [_at("submitted"), _at("looked")], certain=False),
    Fault("while sbatch runs", [_in_sbatch("0")], certain=False),
    Fault("the same, sbatch goes on", [_in_sbatch("$$")], certain=False),
    Fault("caller, the script goes on", [_caller_at_any_time], certain=False),
    Fault("the answer lost", [lambda *_: BreakingShell(after=_lose_answer)]),
)

#: what befalls submissions of whole arrays
ARRAY_FAULTS: Final = (
    Fault("arrays: 1 locked", [_at_some("locked")], certain=False),
    Fault("arrays: 2 written", [_at("written")]),
    Fault("arrays: 3 some intended", [_at_some("intending")], certain=False),
    Fault("arrays: 4 intended", [_at("intended")]),
    Fault("arrays: 5 submitted", [_at("submitted")]),
    Fault("arrays: 6 some recorded", [_at_some("recording")], certain=False),
    Fault("arrays: 7 recorded", [_at("recorded")]),
    Fault("arrays: while sbatch runs", [_in_sbatch("0")], certain=False),
    Fault("arrays: the same, sbatch goes on", [_in_sbatch("$$")], certain=False),
    Fault("arrays: caller, the script goes on", [_caller_at_any_time], certain=False),
    Fault("arrays: the answer lost", [lambda *_: BreakingShell(after=_lose_answer)]),
)
