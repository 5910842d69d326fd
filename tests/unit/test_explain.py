"""Why an experiment stands where it stands: a table of situations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wlm_tasks.explain import Situation, current_step, why
from wlm_tasks.model.states import FINAL, ExperimentState, JobRecord, StepState
from wlm_tasks.model.steps import QUEUES, StepName
from wlm_tasks.state.views import ExperimentView, JobView, StepView

NOW = 10_000.0
S, E = StepState, ExperimentState
SETUP, STAGE_IN, SUBMIT = StepName.SETUP, StepName.STAGE_IN, StepName.SUBMIT
MONITOR, STAGE_OUT = StepName.MONITOR, StepName.STAGE_OUT

EXPERIMENT = ExperimentView(
    id="exp-abcdefghij", name="melt", key=None, owner=None, project=None, site="alpha",
    priority=4, state=E.QUEUED, reason=None, params={}, labels={}, sweep_id=None, member=None,
    created_at=NOW - 100, updated_at=NOW - 50, ended_at=None,
)  # fmt: skip
JOB = JobView(
    token="wlm-abcdefghij-1", number=1, site="alpha", state=JobRecord.RUNNING, workdir="/w",
    native_id="4711", created_at=NOW - 60, started_at=NOW - 30, ended_at=None, exit_code=None,
    reason=None,
)  # fmt: skip


def _step(name: StepName, state: StepState, **fields: Any) -> StepView:
    values: dict[str, Any] = {
        "seq": list(StepName).index(name), "name": name, "queue": QUEUES[name], "priority": 4,
        "state": state, "epoch": 1, "attempts": 1, "tries": 0, "crashes": 0,
        "worker": "w1@host", "ready_at": NOW - 20, "sent_at": NOW - 20,
        "started_at": NOW - 10, "ended_at": None, "due_at": None, "reason": None,
        "progress": None,
    }  # fmt: skip
    return StepView(**{**values, **fields})


def _at(name: StepName, state: StepState, **fields: Any) -> list[StepView]:
    """The steps of an experiment that has got as far as this one."""
    place = list(StepName).index(name)
    return [
        _step(one, S.DONE if n < place else S.WAITING)
        if n != place
        else _step(one, state, **fields)
        for n, one in enumerate(StepName)
    ]


def _situation(steps: list[StepView], state: ExperimentState, **fields: Any) -> Situation:
    experiment = replace(EXPERIMENT, state=state, **fields.pop("experiment", {}))
    values = {"job": None, "ahead": 0, "now": NOW, "controls": ["host:1"], **fields}
    return Situation(experiment=experiment, steps=steps, **values)


CASES: list[tuple[Situation, str]] = [
    (
        _situation(_at(SETUP, S.READY), E.QUEUED),
        "setup: waits in queue 'envsetup' for a worker, next in line, for 20 s",
    ),
    (
        _situation(_at(SETUP, S.READY, sent_at=None), E.QUEUED, ahead=17),
        "setup: waits in queue 'envsetup' for a worker, 17 ahead, not sent yet, for 20 s",
    ),
    (
        _situation(_at(SETUP, S.READY, ready_at=NOW + 5), E.QUEUED),
        "setup: waits in queue 'envsetup' for a worker, next in line, for 0 s",
    ),
    (
        _situation(_at(STAGE_IN, S.RUNNING, attempts=2), E.PREPARING),
        "stage_in: runs on w1@host, attempt 2, for 10 s",
    ),
    (
        _situation(
            _at(STAGE_IN, S.RUNNING, progress={"file": 1, "files": 3, "bytes": 50, "total": 200}),
            E.PREPARING,
        ),
        "stage_in: runs on w1@host, attempt 1, transfer 2 of 3: 25 % of 200 B, for 10 s",
    ),
    (
        _situation(
            _at(
                STAGE_IN, S.RUNNING, progress={"bytes": 50, "total": 200, "words": "by the worker"}
            ),
            E.PREPARING,
        ),
        "stage_in: runs on w1@host, attempt 1, transfer 1 of 1: 25 % of 200 B, by the worker,"
        " for 10 s",
    ),
    (
        _situation(
            _at(
                STAGE_IN,
                S.RUNNING,
                progress={"file": 0, "files": 1, "bytes": 10**9, "total": 4 * 10**9, "rate": 10**8},
            ),
            E.PREPARING,
        ),
        "stage_in: runs on w1@host, attempt 1, transfer 1 of 1: 25 % of 4.0 GB at 100.0 MB/s,"
        " 30 s left, for 10 s",
    ),
    (
        _situation(
            _at(STAGE_OUT, S.RUNNING, progress={"file": 0, "bytes": 0, "total": 0}), E.FINISHING
        ),
        "stage_out: runs on w1@host, attempt 1, for 10 s",
    ),
    (
        _situation(_at(SETUP, S.HELD), E.QUEUED),
        "setup: held: the sweep has as many active members as it may",
    ),
    (
        _situation(
            _at(SUBMIT, S.HELD, reason="site alpha: runs as many jobs as it may (4)"), E.PREPARING
        ),
        "submit: held: site alpha: runs as many jobs as it may (4)",
    ),
    (
        _situation(
            _at(STAGE_IN, S.BACKOFF, tries=2, due_at=NOW + 37.4, reason="no route to host"),
            E.PREPARING,
        ),
        "stage_in: tried 2 times, again in 37 s: no route to host",
    ),
    (
        _situation(
            _at(STAGE_IN, S.BACKOFF, tries=1, due_at=NOW - 3, reason="no route"), E.PREPARING
        ),
        "stage_in: tried once, again in 0 s: no route",
    ),
    (
        _situation(_at(STAGE_IN, S.PAUSED, reason="gave up after 5 tries: no route"), E.PAUSED),
        "stage_in: paused: gave up after 5 tries: no route; go on with `wlm resume`",
    ),
    (
        _situation(_at(MONITOR, S.WATCHING), E.RUNNING, job=JOB),
        "monitor: job wlm-abcdefghij-1 is running at site alpha as 4711, for 30 s",
    ),
    (
        _situation(
            _at(MONITOR, S.WATCHING),
            E.SUBMITTED,
            job=replace(JOB, state=JobRecord.PENDING, started_at=None, native_id=None),
        ),
        "monitor: job wlm-abcdefghij-1 is pending at site alpha, for 10 s",
    ),
    (
        _situation(
            _at(MONITOR, S.WATCHING),
            E.SUBMITTED,
            job=replace(JOB, state=JobRecord.PENDING, started_at=None, reason="Too few CPUs"),
        ),
        "monitor: job wlm-abcdefghij-1 is pending at site alpha as 4711, for 10 s: Too few CPUs",
    ),
    (
        _situation(_at(MONITOR, S.WATCHING), E.RUNNING, job=JOB, poll_error="ssh: no route"),
        "monitor: job wlm-abcdefghij-1 is running at site alpha as 4711, for 30 s"
        "; the site cannot be asked: ssh: no route",
    ),
    (_situation(_at(MONITOR, S.WATCHING), E.RUNNING), "monitor: the job is on its site"),
    (
        _situation(_at(MONITOR, S.FAILED, reason="exit code 1"), E.FAILED, controls=[]),
        "monitor: failed: exit code 1",
    ),
    (_situation(_at(SETUP, S.FAILED), E.FAILED), "setup: failed: failed"),
    (
        _situation(_at(SUBMIT, S.FAILED, reason="sbatch: error:\n  no such partition"), E.FAILED),
        "submit: failed: sbatch: error: no such partition",
    ),
    (_situation([_step(name, S.DONE) for name in StepName], E.DONE, controls=[]), "done"),
    (
        _situation(_at(SETUP, S.CANCELLED), E.CANCELLED, experiment={"reason": "by ann"}),
        "cancelled: by ann",
    ),
    (_situation(_at(SETUP, S.CANCELLED), E.CANCELLED, controls=[]), "cancelled"),
    (
        _situation(_at(MONITOR, S.CANCELLED), E.CANCELLING, job=JOB),
        "cancelling: waits for its site to confirm that the job is gone",
    ),
]


@pytest.mark.parametrize(("situation", "said"), CASES, ids=[said[:40] for _s, said in CASES])
def test_why(situation: Situation, said: str) -> None:
    assert why(situation) == said


@pytest.mark.parametrize(
    ("name", "state", "experiment"),
    [
        (SETUP, S.READY, E.QUEUED),
        (STAGE_IN, S.BACKOFF, E.PREPARING),
        (SUBMIT, S.HELD, E.PREPARING),
        (MONITOR, S.WATCHING, E.RUNNING),
        (MONITOR, S.CANCELLED, E.CANCELLING),
    ],
)
def test_without_control_that_is_said_first_of_all(
    name: StepName, state: StepState, experiment: ExperimentState
) -> None:
    with_control = why(_situation(_at(name, state), experiment))
    without = why(_situation(_at(name, state), experiment, controls=[]))
    assert without.startswith(with_control)
    assert "no control process is alive" in without
    assert "wlm control" in without


def test_the_current_step() -> None:
    assert current_step([]) is None
    assert current_step([_step(name, S.DONE) for name in StepName]) is None
    for name in StepName:
        found = current_step(_at(name, S.READY))
        assert found is not None
        assert found.name is name


@given(
    st.sampled_from(StepName),
    st.sampled_from(StepState),
    st.sampled_from(ExperimentState),
    st.booleans(),
    st.none() | st.floats(0, 2 * NOW),
    st.none()
    | st.dictionaries(
        st.sampled_from(["file", "files", "bytes", "total", "rate"]), st.integers(0, 9)
    ),
)
def test_there_is_always_one_line(  # noqa: PLR0917 - hypothesis gives them by place
    name: StepName,
    state: StepState,
    experiment: ExperimentState,
    job: bool,
    time: float | None,
    progress: dict[str, int] | None,
) -> None:
    steps = _at(
        name, state, ready_at=time, sent_at=time, started_at=time, due_at=time, worker=None,
        progress=progress,
    )  # fmt: skip
    said = why(_situation(steps, experiment, job=JOB if job else None))
    assert said
    assert "\n" not in said
    assert "None" not in said
    assert experiment not in FINAL or "no control" not in said


def test_a_directory_that_cannot_be_removed_is_told() -> None:
    steps = [_step(name, S.DONE) for name in StepName]
    reason = {"cleanup_reason": "/s/x: Permission denied"}
    text = why(_situation(steps, E.DONE, experiment=reason))
    assert text == "done; its directory is still there: /s/x: Permission denied"


@pytest.mark.parametrize("state", [S.READY, S.RUNNING])
def test_a_worker_that_disappeared_is_named(state: StepState) -> None:
    steps = _at(STAGE_IN, state, reason="its worker w7@host is down")
    assert why(_situation(steps, E.PREPARING)).endswith("; before: its worker w7@host is down")
