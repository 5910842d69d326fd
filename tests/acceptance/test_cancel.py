"""Promise 6: cancel reaches the process and is confirmed, in every state."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.fixtures import MakeRabbitMQ
from services.fleet import Fleet, Layout
from services.processes import alive, wait_for
from wlm_tasks import Experiment, Transfer
from wlm_tasks.handles import ExperimentHandle
from wlm_tasks.model.states import ExperimentState, StepState

SLOW = "[staging]\nbytes_per_s = 20000\n"


@pytest.fixture(scope="module")
def fleet(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Fleet]:
    """A fleet whose transfers are slow."""
    rabbitmq = request.getfixturevalue("rabbitmq")
    layout = Layout(settings=SLOW, concurrency=4)
    with Fleet(tmp_path_factory.mktemp("fleet"), rabbitmq.new_vhost(), layout) as fleet:
        yield fleet


def step_state(handle: ExperimentHandle, name: str) -> StepState:
    return next(step.state for step in handle.steps if step.name == name)


def sleeping(directory: Path, *more: str) -> Experiment:
    """A job that says its pid and sleeps; `more` are commands before that."""
    return Experiment.model_validate(
        {
            "name": "sleeper",
            "site": "local",
            "commands": [*more, f"echo $$ > {directory}/pid", "sleep 600"],
            "stop": {"grace_s": 1},
        }
    )


def pid_of(directory: Path) -> int:
    """The pid the job wrote, once it has."""
    file = directory / "pid"
    wait_for(lambda: file.exists() and file.read_text().strip(), 40, "the job to run")
    return int(file.read_text())


def cancelled(handle: ExperimentHandle, timeout: float = 40) -> None:
    handle.cancel()
    wait_for(
        lambda: handle.status is ExperimentState.CANCELLED,
        timeout,
        "the confirmation of the cancel",
    )
    assert all(step.state in (StepState.DONE, StepState.CANCELLED) for step in handle.steps)


def stays_cancelled(handle: ExperimentHandle, work: Callable[[], object]) -> None:
    """Nothing starts later: let other work pass through every queue, then look."""
    work()
    assert handle.status is ExperimentState.CANCELLED


def other_work(fleet: Fleet) -> Callable[[], object]:
    def work() -> object:
        return fleet.client.schedule(
            Experiment(name="other", site="local", commands=["true"])
        ).wait(60)

    return work


def test_while_its_job_runs(fleet: Fleet, tmp_path: Path) -> None:
    handle = fleet.client.schedule(sleeping(tmp_path))
    pid = pid_of(tmp_path)
    cancelled(handle)
    assert not alive(pid)
    stays_cancelled(handle, other_work(fleet))


def test_a_job_that_ignores_the_signal_and_has_left_its_group(fleet: Fleet, tmp_path: Path) -> None:
    child = (
        f"setsid bash -c 'trap \"\" TERM; echo $$ > {tmp_path}/child; while :; do sleep 1; done' &"
    )
    handle = fleet.client.schedule(sleeping(tmp_path, "trap '' TERM", child))
    pid = pid_of(tmp_path)
    child_file = tmp_path / "child"
    wait_for(lambda: child_file.exists() and child_file.read_text().strip(), 10, "the child")
    cancelled(handle)
    assert not alive(pid)
    assert not alive(int(child_file.read_text()))


def test_before_any_worker_takes_it(tmp_path: Path, broker_url: str) -> None:
    layout = Layout(workers=(), controls=1)
    with Fleet(tmp_path, broker_url, layout) as fleet:
        handle = fleet.client.schedule(sleeping(tmp_path))
        assert handle.cancel() is ExperimentState.CANCELLED
        fleet.layout = Layout()
        fleet.start_worker(0)
        stays_cancelled(handle, other_work(fleet))
        assert not (tmp_path / "pid").exists()


def test_in_the_middle_of_staging(fleet: Fleet, tmp_path: Path) -> None:
    big = tmp_path / "big.dat"
    big.write_bytes(b"y" * 4_000_000)  # 200 s at the rate of this fleet
    experiment = sleeping(tmp_path).model_copy(update={"inputs": (Transfer(str(big), "big.dat"),)})
    handle = fleet.client.schedule(experiment)
    wait_for(lambda: step_state(handle, "stage_in") is StepState.RUNNING, 40, "staging")
    cancelled(handle)
    stays_cancelled(handle, other_work(fleet))
    assert not (tmp_path / "pid").exists()


@contextmanager
def locked_part(directory: Path) -> Iterator[None]:
    """Hold the part file of ``out/x``, as another transfer would."""
    (directory / "out").mkdir()
    with (directory / "out" / ".x.wlm-part").open("w") as part:
        fcntl.flock(part, fcntl.LOCK_EX)
        yield


def test_in_the_middle_of_a_back_off(fleet: Fleet, tmp_path: Path) -> None:
    experiment = Experiment(
        name="backoff",
        site="local",
        commands=["echo x > x"],
        outputs=[Transfer("x", str(tmp_path / "out" / "x"))],
    )
    with locked_part(tmp_path):
        handle = fleet.client.schedule(experiment)
        wait_for(lambda: step_state(handle, "stage_out") is StepState.BACKOFF, 60, "the back-off")
        assert "again in" in handle.why()
        cancelled(handle)
    stays_cancelled(handle, other_work(fleet))
    assert not (tmp_path / "out" / "x").exists()


def test_while_paused_and_then_retried(fleet: Fleet, tmp_path: Path) -> None:
    experiment = Experiment.model_validate(
        {
            "name": "pause",
            "site": "local",
            "commands": ["echo x > x"],
            "outputs": [{"src": "x", "dest": str(tmp_path / "out" / "x")}],
            "retry": {"tries": 1},
        }
    )
    with locked_part(tmp_path):
        handle = fleet.client.schedule(experiment)
        wait_for(lambda: handle.status is ExperimentState.PAUSED, 60, "the pause")
        assert "paused" in handle.why()
        cancelled(handle)
    handle.retry().wait(60)
    assert (tmp_path / "out" / "x").read_text() == "x\n"


def test_held_by_the_sites_limit(tmp_path: Path, broker_url: str) -> None:
    with Fleet(tmp_path, broker_url, Layout(local="max_running = 1")) as fleet:
        first = fleet.client.schedule(sleeping(tmp_path))
        pid = pid_of(tmp_path)
        second = fleet.client.schedule(
            Experiment(name="held", site="local", commands=[f"touch {tmp_path}/second"])
        )
        wait_for(lambda: step_state(second, "submit") is StepState.HELD, 40, "the limit")
        assert "as many jobs as it may" in second.why()
        cancelled(second)
        cancelled(first)
        assert not alive(pid)
        stays_cancelled(second, other_work(fleet))
        assert not (tmp_path / "second").exists()


@pytest.mark.timeout(240)
def test_while_the_broker_is_down(tmp_path: Path, make_rabbitmq: MakeRabbitMQ) -> None:
    """Control ends the job itself; when the broker is back nothing starts again."""
    broker = make_rabbitmq()
    with Fleet(tmp_path, broker.url, Layout()) as fleet:
        handle = fleet.client.schedule(sleeping(tmp_path))
        pid = pid_of(tmp_path)
        broker.kill9()
        cancelled(handle, 60)
        assert not alive(pid)
        broker.start()
        stays_cancelled(handle, other_work(fleet))
        assert time.time() - handle.view.updated_at > 0
