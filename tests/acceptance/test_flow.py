"""The main job on a real broker: files in, a process, files out; the whole log of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.fleet import Fleet, Layout
from services.processes import wait_for
from wlm_tasks import Cleanup, Experiment, ExperimentFailedError, Transfer
from wlm_tasks.model.states import ExperimentState, StepState


@pytest.fixture(scope="module")
def fleet(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Fleet]:
    """One worker for all queues and one control, for all tests of this module."""
    rabbitmq = request.getfixturevalue("rabbitmq")
    with Fleet(tmp_path_factory.mktemp("fleet"), rabbitmq.new_vhost(), Layout()) as fleet:
        yield fleet


def test_files_in_process_files_out(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("three\nwords\nhere\n")
    handle = fleet.client.schedule(
        Experiment(
            name="count",
            site="local",
            environment=["export GREETING='hello there'"],
            commands=["wc -l < in.txt > out.txt", 'echo "$GREETING" {who} >> out.txt'],
            inputs=[Transfer(str(tmp_path / "in.txt"), "in.txt")],
            outputs=[Transfer("out.txt", str(tmp_path / "results" / "{who}.txt"))],
        ),
        params={"who": "Ada & Bob; $(touch never)"},
    )
    handle.wait(60)
    result = handle.outputs["out.txt"].file
    assert result is not None
    assert result.read_text() == "3\nhello there Ada & Bob; $(touch never)\n"
    assert result.parent == tmp_path / "results"
    names = [str(step.name) for step in handle.steps]
    assert names == ["setup", "stage_in", "submit", "monitor", "stage_out"]
    assert {step.state for step in handle.steps} == {StepState.DONE}
    states = [
        event.state for event in fleet.client.store.views.events(handle.id) if event.step is None
    ]
    assert states[0] == "QUEUED"
    assert states[-1] == "DONE"
    assert handle.why() == "done"


def test_a_failing_job_tells_its_exit_code_and_output(fleet: Fleet) -> None:
    handle = fleet.client.schedule(
        Experiment(name="bad", site="local", commands=["echo oh no >&2", "exit 7"])
    )
    with pytest.raises(ExperimentFailedError, match="7"):
        handle.wait(60)
    assert handle.status is ExperimentState.FAILED
    assert "oh no" in handle.logs()


def test_a_failing_job_is_run_again_as_often_as_asked(fleet: Fleet, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    handle = fleet.client.schedule(
        Experiment.model_validate(
            {
                "name": "flaky",
                "site": "local",
                "commands": [f"echo x >> {ledger}", f'[ "$(wc -l < {ledger})" -ge 3 ]'],
                "retry": {"jobs": 3},
            }
        )
    )
    handle.wait(60)
    assert ledger.read_text() == "x\nx\nx\n"


def test_walltime_ends_a_job(fleet: Fleet) -> None:
    handle = fleet.client.schedule(
        Experiment.model_validate(
            {
                "name": "long",
                "site": "local",
                "commands": ["sleep 600"],
                "resources": {"walltime_s": 1},
                "stop": {"grace_s": 1},
            }
        )
    )
    with pytest.raises(ExperimentFailedError, match="walltime"):
        handle.wait(60)


def test_a_missing_input_fails_at_once_with_its_name(fleet: Fleet, tmp_path: Path) -> None:
    handle = fleet.client.schedule(
        Experiment(
            name="x",
            site="local",
            commands=["true"],
            inputs=[Transfer(str(tmp_path / "nothing.dat"), "a")],
        )
    )
    with pytest.raises(ExperimentFailedError, match=r"nothing\.dat"):
        handle.wait(60)
    assert handle.job is None


def test_retry_goes_on_where_it_failed(fleet: Fleet, tmp_path: Path) -> None:
    handle = fleet.client.schedule(
        Experiment(
            name="x",
            site="local",
            commands=[f"echo ran >> {tmp_path}/ledger", "cp in.txt out.txt"],
            inputs=[Transfer(str(tmp_path / "in.txt"), "in.txt")],
            outputs=[Transfer("out.txt", str(tmp_path / "out.txt"))],
        )
    )
    with pytest.raises(ExperimentFailedError):
        handle.wait(60)
    (tmp_path / "in.txt").write_text("here now\n")
    handle.retry().wait(60)
    assert (tmp_path / "out.txt").read_text() == "here now\n"
    assert (tmp_path / "ledger").read_text() == "ran\n"
    (tmp_path / "out.txt").unlink()
    handle.retry("stage_out").wait(60)
    assert (tmp_path / "out.txt").read_text() == "here now\n"
    assert (tmp_path / "ledger").read_text() == "ran\n", "only the outputs were to be staged again"


def test_the_same_key_is_the_same_experiment(fleet: Fleet) -> None:
    experiment = Experiment(name="k", site="noop", commands=["true"])
    first = fleet.client.schedule(experiment, key="one")
    again = fleet.client.schedule(experiment, key="one")
    assert again.id == first.id
    first.wait(60)


def test_a_job_that_ends_is_noticed_without_waiting_for_the_poll(
    tmp_path: Path, broker_url: str
) -> None:
    """The site is polled every ten minutes, yet its bell tells at once."""
    layout = Layout(local="max_running = 4\npoll_s = 600")
    with Fleet(tmp_path, broker_url, layout) as fleet:
        handle = fleet.client.schedule(Experiment(name="x", site="local", commands=["sleep 1"]))
        handle.wait(60)


def test_held_members_follow_one_another(fleet: Fleet, tmp_path: Path) -> None:
    """max_active bounds how many members are under way at any time."""
    trace = tmp_path / "trace"
    sweep = fleet.client.schedule_sweep(
        Experiment(
            name="few",
            site="local",
            commands=[f"echo + >> {trace}", "sleep 0.2 # {n}", f"echo - >> {trace}"],
        ),
        {"n": list(range(8))},
        max_active=2,
    )
    sweep.wait(90)
    most = running = 0
    for mark in trace.read_text().split():
        running += 1 if mark == "+" else -1
        most = max(most, running)
    assert most <= 2


def test_its_directory_is_removed_after_the_end(fleet: Fleet) -> None:
    asked = Experiment("tidy", "local", ["echo done"], cleanup=Cleanup("delete"))
    handle = fleet.client.schedule(asked).wait(60)
    assert handle.job is not None
    workdir = Path(handle.job.view.workdir)
    wait_for(lambda: handle.view.removed_at is not None, 30, "the removal")
    assert not workdir.exists()
