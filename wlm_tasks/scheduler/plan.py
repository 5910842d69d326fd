"""From an experiment to its steps. Pure: no broker, no database, no clock."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from wlm_tasks.model.experiment import Experiment
from wlm_tasks.model.script import payload_script
from wlm_tasks.model.steps import PlannedStep, StepName


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What would be done for one experiment."""

    experiment: Experiment  #: bound: parameters filled in, paths resolved
    steps: tuple[PlannedStep, ...]
    prologue: str | None = None  #: its site's

    @property
    def script(self) -> str:
        """The job's script."""
        return payload_script(self.experiment, self.prologue)

    @property
    def segments(self) -> tuple[tuple[StepName, ...], ...]:
        """The chains: one before the job, one after it (if there is anything to do there)."""
        names = [step.name for step in self.steps]
        place = names.index(StepName.MONITOR)
        return tuple(part for part in (tuple(names[:place]), tuple(names[place + 1 :])) if part)


def plan(experiment: Experiment, prologue: str | None = None) -> Plan:
    """The steps of a bound experiment, in order; staging only where there is something to stage.

    `prologue` is its site's, for the script.
    """
    names = step_names(inputs=bool(experiment.inputs), outputs=bool(experiment.outputs))
    return Plan(
        experiment=experiment,
        steps=tuple(PlannedStep(seq, name) for seq, name in enumerate(names)),
        prologue=prologue,
    )


@cache
def step_names(*, inputs: bool, outputs: bool) -> tuple[StepName, ...]:
    """The steps of an experiment that has inputs, outputs, both or neither."""
    names = [StepName.SETUP]
    if inputs:
        names.append(StepName.STAGE_IN)
    names += [StepName.SUBMIT, StepName.MONITOR]
    if outputs:
        names.append(StepName.STAGE_OUT)
    return tuple(names)
