"""What the work of a step is given, and how it can end."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from wlm_tasks.model.experiment import Experiment
from wlm_tasks.model.steps import StepName
from wlm_tasks.runtime import Runtime, Site
from wlm_tasks.scheduler.plan import step_names
from wlm_tasks.state.holders import Claim, Holder
from wlm_tasks.state.reports import JobReport


@dataclass(frozen=True)
class Done:
    """The step's work is done; the row is still to be written."""


@dataclass(frozen=True)
class Sliced:
    """The slice is over before the work; this is how far it got."""

    progress: str


@dataclass(frozen=True)
class Recorded:
    """The step wrote its own row, and nothing comes next now."""

    reached: bool = True  #: whether it got through to its site


@dataclass(frozen=True)
class Crowded:
    """The work was not begun or not gone on with: its host serves as many of us as it may."""

    reason: str
    pause_s: float  #: before it is tried again


@dataclass(frozen=True)
class Handed:
    """The site has the step's job; the rows are still to be written."""

    token: str
    native_id: str
    report: JobReport | None  #: of a site that knows at once how the job stands


Outcome = Done | Sliced | Recorded | Crowded | Handed


@dataclass(frozen=True, kw_only=True)
class Work:
    """One claimed step with all that its work needs."""

    runtime: Runtime
    experiment: Experiment
    claim: Claim
    deadline: float  #: end of the slice on the monotonic clock
    progress: dict[str, Any]  #: where an earlier slice got to
    carry_on: Holder | None
    holder: Holder  #: in whose name others may be claimed along with the step
    #: keeps such a claim alive, and shows its step as a task
    beside: Callable[[Claim], AbstractContextManager[None]]
    #: tells whoever listens how far the step is
    tell: Callable[[Mapping[str, int]], None]
    #: what its events have of how it goes
    told: set[str] = field(default_factory=set)
    carried: bool = False  #: whether no message of its own brought it here

    @property
    def site(self) -> Site:
        """The experiment's site."""
        return self.runtime.site(self.experiment.site)

    @property
    def workdir(self) -> str:
        """The experiment's directory on its site."""
        return self.site.workdir(self.claim.experiment_id)

    @cached_property
    def segment(self) -> tuple[StepName, ...]:
        """The step and those that follow it without a wait."""
        rest = self._rest
        return rest[: rest.index(StepName.MONITOR)] if StepName.MONITOR in rest else rest

    @property
    def following(self) -> StepName | None:
        """The step that comes next, be it after a job."""
        return next((name for name in self._rest[1:] if name is not StepName.MONITOR), None)

    @property
    def _rest(self) -> tuple[StepName, ...]:
        one = self.experiment
        names = step_names(inputs=bool(one.inputs), outputs=bool(one.outputs))
        return names[names.index(self.claim.name) :]

    def should_stop(self) -> bool:
        """Whether the slice is over, the claim lost or the process about to stop."""
        return (
            time.monotonic() >= self.deadline
            or self.claim.lost.is_set()
            or self.runtime.stopping.is_set()
        )
