"""Real workers and their signs of life: from the first to the last, and what a drain does."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.fleet import ALL_QUEUES, Fleet, Layout
from services.processes import wait_for
from wlm_tasks.model.experiment import Experiment, Transfer
from wlm_tasks.model.states import ExperimentState
from wlm_tasks.model.workers import WorkerState
from wlm_tasks.state.roster import WorkerView

QUICK = "[watch]\nbeat_s = 0.5\ngrace_s = 1\n[staging]\nbytes_per_s = 100_000\n"


@pytest.fixture
def fleet(tmp_path: Path, broker_url: str) -> Iterator[Fleet]:
    """One worker on SQLite, each of whose children does one step only: it forks all the time."""
    layout = Layout(workers=(ALL_QUEUES,), settings=QUICK, options=("--max-tasks-per-child", "1"))
    with Fleet(tmp_path, broker_url, layout, supervised=False) as made:
        wait_for(made.client.store.roster.views, 20, "it registers")
        yield made


def only(fleet: Fleet) -> WorkerView:
    (view,) = fleet.client.store.roster.views(left_s=600.0)
    return view


def slow(tmp_path: Path) -> Experiment:
    """An experiment whose input takes three seconds."""
    source = tmp_path / "input"
    source.write_bytes(bytes(300_000))
    return Experiment(
        name="slow", site="local", commands=["true"], inputs=[Transfer(f"file://{source}", "in")]
    )


def test_signs_of_life_beside_children_that_come_and_go(fleet: Fleet) -> None:
    first = only(fleet)
    assert first.state is WorkerState.UP
    assert first.queues == sorted(ALL_QUEUES.split(","))
    assert (first.attributes["slots"], first.attributes["pool"]) == (2, "prefork")
    sweep = fleet.sweep(20)
    wait_for(lambda: sweep.status == {ExperimentState.DONE: 20}, 60, "all is done")
    fleet.check_once(20)
    wait_for(lambda: only(fleet).heard_at > first.heard_at + 2, 20, "it still signs")
    assert only(fleet).incarnation == first.incarnation
    wait_for(lambda: only(fleet).witnesses.get("celery") == "alive", 20, "it is heard")


def test_one_that_is_drained_takes_nothing_until_it_is_let_go(fleet: Fleet) -> None:
    roster = fleet.client.store.roster
    worker = fleet.processes["worker0"]
    assert roster.drain(only(fleet).name, who="ada", within_s=None)
    worker.wait_for(lambda: worker.output.count("Canceling queue") >= 5, 20, "it cancels")
    wait_for(lambda: only(fleet).state is WorkerState.DRAINING, 10, "it drains")
    sweep = fleet.sweep(2)
    wait_for(lambda: fleet.client.store.upkeep.count_sent("envsetup", 0.5) == 2, 20, "they wait")
    assert sweep.status == {ExperimentState.QUEUED: 2}
    assert roster.undrain(only(fleet).name)
    wait_for(lambda: sweep.status == {ExperimentState.DONE: 2}, 30, "it works again")
    wait_for(lambda: only(fleet).state is WorkerState.UP, 10, "it is up")


def test_sigterm_at_work_is_a_drain_and_a_goodbye(fleet: Fleet, tmp_path: Path) -> None:
    handle = fleet.client.schedule(slow(tmp_path))
    wait_for(fleet.client.store.views.running, 20, "it is at work")
    worker = fleet.processes["worker0"]
    worker.send(signal.SIGTERM)
    wait_for(lambda: only(fleet).state is WorkerState.DRAINING, 5, "it drains")
    assert only(fleet).drained_by == "itself"
    worker.wait(30)
    wait_for(lambda: only(fleet).state is WorkerState.LEFT, 5, "it has left")
    states = {str(step.name): str(step.state) for step in handle.steps}
    assert states["stage_in"] == "DONE"
    assert fleet.client.store.deliveries.views(10) == []


def test_one_that_is_killed_says_nothing_and_is_found_out(fleet: Fleet, tmp_path: Path) -> None:
    fleet.client.schedule(slow(tmp_path))
    wait_for(fleet.client.store.views.running, 20, "it is at work")
    fleet.processes["worker0"].kill_group()
    wait_for(lambda: only(fleet).state is WorkerState.DOWN, 30, "it is missed")
    (view,) = fleet.client.store.deliveries.views(10)
    assert view.notice.subject == only(fleet).name
    (step,) = view.notice.detail["steps"]
    assert step["became"] == "released"
