"""A sweep on a Slurm site: its jobs go in a few calls, and each runs once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from services.processes import wait_for
from services.slurm import PrivateSlurm
from services.sshd import PrivateSshd
from wlm_tasks import Client, Experiment, Resources, Settings, schedule_experiment
from wlm_tasks.config.settings import SiteSettings
from wlm_tasks.control.embedded import running
from wlm_tasks.model.states import FINAL, ExperimentState

MEMBERS: Final = 50


@pytest.fixture
def settings(login_node: PrivateSshd, tmp_path: Path) -> Settings:
    site = SiteSettings(
        name="cluster", kind="slurm", scratch=str(tmp_path / "scratch"), poll_s=0.2,
        options=login_node.options,
    )  # fmt: skip
    return Settings(data_dir=tmp_path / "data", sites={"cluster": site})


def test_a_sweep_is_a_few_arrays(settings: Settings, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    asked = Experiment(
        name="sweep", site="cluster", commands=[f"echo {{number}} >> {ledger}"],
        resources=Resources(walltime_s=60.0),
    )  # fmt: skip
    client = Client(settings)
    with running(settings, concurrency=2):
        handle = schedule_experiment(asked, sweep={"number": list(range(MEMBERS))}, client=client)
        wait_for(lambda: all(run.status is ExperimentState.DONE for run in handle), 120)
        ids = [str(run.job.native_id) for run in handle]
    assert Counter(ledger.read_text().split()) == {str(number): 1 for number in range(MEMBERS)}
    calls = len({native_id.partition("_")[0] for native_id in ids})
    print(f"{MEMBERS} jobs by {calls} calls of sbatch")  # noqa: T201 - shown with -s
    assert calls <= MEMBERS // 5


def test_one_member_is_cancelled(settings: Settings, slurm: PrivateSlurm, tmp_path: Path) -> None:
    go = tmp_path / "go"
    asked = Experiment(
        name="sweep", site="cluster",
        commands=[f"until [ -e {go} ]; do sleep 0.1; done", "exit $(({number} % 3 == 2))"],
        resources=Resources(walltime_s=60.0),
    )  # fmt: skip
    client = Client(settings)
    with running(settings, concurrency=2):
        handle = schedule_experiment(asked, sweep={"number": list(range(4))}, client=client)
        runs = list(handle)
        wait_for(lambda: all(run.status is ExperimentState.RUNNING for run in runs), 60)
        runs[1].cancel()
        wait_for(lambda: runs[1].status is ExperimentState.CANCELLED, 60)
        go.touch()
        wait_for(lambda: all(run.status in FINAL for run in runs), 60)
        assert [str(run.status) for run in runs] == ["DONE", "CANCELLED", "FAILED", "DONE"]
        assert "exit code 1" in runs[2].why()
    assert slurm.answers()
