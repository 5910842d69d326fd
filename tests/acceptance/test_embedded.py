"""The embedded system: everything in one process, killed in the middle, started again."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
from collections import Counter
from pathlib import Path

import pytest

from services.processes import Process, script, wait_for
from wlm_tasks import Client, Experiment, Settings, Transfer
from wlm_tasks.config import load
from wlm_tasks.config.settings import ControlSettings, SiteSettings
from wlm_tasks.control.embedded import running
from wlm_tasks.control.lock import UpLock
from wlm_tasks.errors import ServiceError
from wlm_tasks.handles import ExperimentHandle
from wlm_tasks.model.states import FINAL, ExperimentState
from wlm_tasks.scheduler.submission import Submission, store_one
from wlm_tasks.state.database import Database

COUNT = 40


@pytest.mark.timeout(240)
@pytest.mark.campaign
def test_kill_9_of_the_embedded_system(tmp_path: Path) -> None:
    """Three kills in the middle; then everything has finished, every payload once."""
    config, ledger = tmp_path / "wlm.toml", tmp_path / "ledger"
    config.write_text(
        f'data_dir = "{tmp_path}/data"\n[sites.local]\nkind = "local"\n'
        f'scratch = "{tmp_path}/scratch"\nmax_running = 4\n'
    )
    environ = {**os.environ, "WLM_CONFIG": str(config)}
    client = Client(load(config, {}))
    ledger.touch()
    sweep = client.schedule_sweep(
        Experiment(name="ledger", site="local", commands=[f"echo {{n}} >> {ledger}", "sleep 0.1"]),
        {"n": list(range(COUNT))},
    )

    def done() -> int:
        return sweep.status.get(ExperimentState.DONE, 0)

    def up() -> Process:
        return Process([script("wlm"), "up"], log=tmp_path / "up.log", env=environ)

    for share in (0.1, 0.35, 0.6):

        def reached(share: float = share) -> bool:
            return done() >= share * COUNT

        process = up()
        process.wait_for(reached, 60, f"{share:.0%}")
        threading.Event().wait(0.05)
        process.kill_group()
    with up() as process:
        process.wait_for(lambda: FINAL.issuperset(sweep.status), 90, "the end")
        assert sweep.status == {ExperimentState.DONE: COUNT}
        ran = Counter(ledger.read_text().split())
        assert ran == {str(n): 1 for n in range(COUNT)}


def test_work_handed_in_before_and_after_the_start(tmp_path: Path) -> None:
    """Another process may hand in at any time; a bell wakes the running one."""
    config = tmp_path / "wlm.toml"
    config.write_text(f'data_dir = "{tmp_path}/data"\n[control]\ntick_s = 80\nlease_s = 200\n')
    environ = {**os.environ, "WLM_CONFIG": str(config)}
    client = Client(load(config, {}))
    before = client.schedule(Experiment(name="before", site="local", commands=["true"]))
    with Process([script("wlm"), "up"], log=tmp_path / "up.log", env=environ) as process:
        process.wait_for(lambda: before.status is ExperimentState.DONE, 40, "the first")
        client.schedule(Experiment(name="after", site="local", commands=["true"])).wait(20)
        sweep = client.schedule_sweep(
            Experiment(name="sweep", site="local", commands=["true {n}"]), {"n": [1, 2]}
        )
        sweep.wait(20)


def test_why_says_that_nobody_is_at_work(tmp_path: Path) -> None:
    config = tmp_path / "wlm.toml"
    config.write_text(f'data_dir = "{tmp_path}/data"\n')
    handle = Client(load(config, {})).schedule(
        Experiment(name="alone", site="local", commands=["true"])
    )
    assert "wlm up" in handle.why()
    wait_for(lambda: handle.status is ExperimentState.QUEUED, 1)


def test_a_message_lost_inside_the_process_is_sent_again(tmp_path: Path) -> None:
    """A row that says sent while no message of it is anywhere: the sweeper looks here, too."""
    settings = Settings(
        data_dir=tmp_path / "data",
        control=ControlSettings(sweep_s=0.2, grace_s=0.2),
        sites={"noop": SiteSettings(name="noop", kind="noop", scratch=str(tmp_path))},
    )
    with running(settings, concurrency=1):
        client = Client(settings)
        experiment = Experiment(name="lost", site="noop", commands=["true"])
        client.schedule(experiment).wait(30)
        lost, _new, _plan = store_one(client.runtime, Submission(experiment=experiment), sent=True)
        ExperimentHandle(client, lost).wait(30)


def test_a_start_that_failed_can_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(
        data_dir=tmp_path, sites={"n": SiteSettings(name="n", kind="noop", scratch=str(tmp_path))}
    )
    with monkeypatch.context() as patch:
        patch.setattr(Database, "upgrade", _fail)
        with pytest.raises(ServiceError), running(settings):
            pass
    with running(settings, concurrency=1):
        assert UpLock(tmp_path).holder() == str(os.getpid())


def _fail(_database: Database) -> None:
    raise ServiceError("database: is away")


def test_what_was_staged_is_told_and_can_be_checked(tmp_path: Path) -> None:
    config, mesh = tmp_path / "wlm.toml", tmp_path / "mesh"
    config.write_text(f'data_dir = "{tmp_path}/data"\n')
    for name in ("a b", "deep/c\nd"):
        (mesh / name).parent.mkdir(parents=True, exist_ok=True)
        (mesh / name).write_text(name)
    settings = load(config, {})
    with running(settings, concurrency=1):
        run = (
            Client(settings)
            .schedule(
                Experiment(
                    name="mesh",
                    site="local",
                    commands=["mkdir out && cp mesh/a* out/x && echo done > log"],
                    inputs=[Transfer(mesh.as_uri() + "/", "mesh/")],
                    outputs=[
                        Transfer("out/", f"{tmp_path}/kept/"),
                        Transfer("log", f"{tmp_path}/log"),
                    ],
                )
            )
            .wait(60)
        )
        assert [(one.step, one.files, one.bytes) for one in run.staged] == [
            ("stage_in", 2, 11),
            ("stage_out", 1, 3),
            ("stage_out", 1, 5),
        ]
        assert run.outputs["log"].sha256 == hashlib.sha256(b"done\n").hexdigest()
    assert run.job is not None
    workdir, manifest = run.job.view.workdir, run.manifest().text
    assert len(manifest.splitlines()) == 4
    check = ["sha256sum", "--strict", "-c"]
    subprocess.run(check, cwd=workdir, input=manifest, text=True, check=True)
    Path(workdir, "out", "x").write_text("another")
    checked = subprocess.run(
        check, cwd=workdir, input=manifest, text=True, capture_output=True, check=False
    )
    assert checked.returncode == 1
    assert "./out/x: FAILED" in checked.stdout
