"""From an experiment to its steps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wlm_tasks.model.experiment import Experiment, Transfer
from wlm_tasks.model.steps import ALL_QUEUES, QUEUES, STEP_QUEUES, StepName, task_name
from wlm_tasks.scheduler.plan import plan
from wlm_tasks.state.upkeep import segment

SETUP, STAGE_IN, SUBMIT = StepName.SETUP, StepName.STAGE_IN, StepName.SUBMIT
MONITOR, STAGE_OUT = StepName.MONITOR, StepName.STAGE_OUT


def _experiment(inputs: int = 0, outputs: int = 0) -> Experiment:
    return Experiment(
        name="melt",
        site="alpha",
        commands=["lmp -in melt.in"],
        environment=["module load lammps"],
        inputs=[Transfer(f"file:///in{n}", f"in{n}") for n in range(inputs)],
        outputs=[Transfer(f"out{n}", f"file:///out{n}") for n in range(outputs)],
    )


@pytest.mark.parametrize(
    ("inputs", "outputs", "names", "segments"),
    [
        (0, 0, [SETUP, SUBMIT, MONITOR], ((SETUP, SUBMIT),)),
        (2, 0, [SETUP, STAGE_IN, SUBMIT, MONITOR], ((SETUP, STAGE_IN, SUBMIT),)),
        (0, 1, [SETUP, SUBMIT, MONITOR, STAGE_OUT], ((SETUP, SUBMIT), (STAGE_OUT,))),
        (
            1,
            3,
            [SETUP, STAGE_IN, SUBMIT, MONITOR, STAGE_OUT],
            ((SETUP, STAGE_IN, SUBMIT), (STAGE_OUT,)),
        ),
    ],
)
def test_staging_only_where_there_is_something_to_stage(
    inputs: int, outputs: int, names: list[StepName], segments: object
) -> None:
    made = plan(_experiment(inputs, outputs))
    assert [step.name for step in made.steps] == names
    assert [step.seq for step in made.steps] == list(range(len(names)))
    assert made.segments == segments


@given(st.integers(0, 3), st.integers(0, 3))
def test_a_plan_and_its_chains_fit_together(inputs: int, outputs: int) -> None:
    made = plan(_experiment(inputs, outputs))
    names = [step.name for step in made.steps]
    assert [name for part in made.segments for name in part] == [
        name for name in names if name is not MONITOR
    ]
    rows = [(step.seq, step.name.value) for step in made.steps]
    for step in made.steps:  # a chain from any step is the rest of that step's segment
        part = next((one for one in made.segments if step.name in one), ())
        rest = part[part.index(step.name) :] if part else ()
        assert segment(rows, step.seq) == rest


def test_the_same_experiment_has_the_same_plan() -> None:
    assert plan(_experiment(1, 1)) == plan(_experiment(1, 1))


def test_the_script_is_the_jobs() -> None:
    script = plan(_experiment()).script
    assert script.index("module load lammps") < script.index("lmp -in melt.in")


def test_each_step_has_its_queue_and_task() -> None:
    assert set(QUEUES) == set(StepName)
    assert set(QUEUES.values()) == set(STEP_QUEUES) < set(ALL_QUEUES)
    assert {step.name: step.queue for step in plan(_experiment(1, 1)).steps} == QUEUES
    assert [task_name(name) for name in StepName] == [
        "wlm.setup", "wlm.stage_in", "wlm.submit", "wlm.monitor", "wlm.stage_out",
    ]  # fmt: skip
