"""The steps of an experiment: names, queues, order and names on the wire."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class StepName(StrEnum):
    """What a step does."""

    SETUP = "setup"  #: make and check the experiment's directory
    STAGE_IN = "stage_in"  #: bring the inputs there
    SUBMIT = "submit"  #: hand the job to the site
    MONITOR = "monitor"  #: the job runs; polls watch it, no message and no slot waits
    STAGE_OUT = "stage_out"  #: bring the outputs back


#: The dedicated queue of each step.
QUEUES: Final = {
    StepName.SETUP: "envsetup",
    StepName.STAGE_IN: "staging",
    StepName.SUBMIT: "jobsub",
    StepName.MONITOR: "monitor",
    StepName.STAGE_OUT: "staging",
}

#: Queues that carry steps; `scheduler` is the orchestrators' door.
STEP_QUEUES: Final = ("envsetup", "staging", "jobsub", "monitor")
SCHEDULER_QUEUE: Final = "scheduler"
ALL_QUEUES: Final = (*STEP_QUEUES, SCHEDULER_QUEUE)

#: Priority of the messages that keep the system going (polls, cancels): above every experiment.
SYSTEM_PRIORITY: Final = 10


def task_name(step: StepName) -> str:
    """The Celery task that carries out a step."""
    return f"wlm.{step}"


@dataclass(frozen=True)
class PlannedStep:
    """One step of a plan."""

    seq: int  #: place in the experiment, from 0
    name: StepName

    @property
    def queue(self) -> str:
        """The queue its messages go to."""
        return QUEUES[self.name]
