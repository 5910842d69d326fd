"""Prologue, modules, environments and room on disk, on this host and behind SSH."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from services import LMOD, require_service
from services.processes import wait_for
from services.sshd import PrivateSshd
from wlm_tasks import Client, Experiment, Resources, Settings
from wlm_tasks.config.settings import SiteSettings
from wlm_tasks.control.embedded import running
from wlm_tasks.model.experiment import Retry
from wlm_tasks.model.states import ExperimentState


@pytest.fixture
def settings(sshd: PrivateSshd, tmp_path: Path) -> Settings:
    """A local site and one behind SSH, whose prologue says where Lmod and its modules are."""
    require_service("Lmod", LMOD.exists())
    home = tmp_path / "modules"
    home.mkdir()
    (home / "sim.lua").write_text('setenv("SIM", "there")\n')
    prologue = f"unset -f module\nexport LMOD_PKG={shlex.quote(str(LMOD))} MODULEPATH={home}\n"
    sites = {
        name: SiteSettings(
            name=name,
            kind=kind,
            scratch=str(tmp_path / name),
            poll_s=0.2,
            prologue=prologue,
            options=sshd.options if kind == "ssh" else {},
        )
        for name, kind in (("near", "local"), ("far", "ssh"))
    }
    return Settings(data_dir=tmp_path / "data", sites=sites)


@pytest.mark.parametrize("site", ["near", "far"])
def test_programs_are_made_available(settings: Settings, tmp_path: Path, site: str) -> None:
    venv = tmp_path / "a venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    good = Experiment(
        "good",
        site,
        ['echo "$SIM $SEED"', "python -c 'import sys; print(sys.prefix)'"],
        modules=["sim"],
        venv=str(venv),
        environment=["SEED+=2"],
        variables={"SEED": "4"},
        resources=Resources(disk_mb=1),
    )
    with running(settings, concurrency=2):
        client = Client(settings)
        run = client.schedule(good).wait(60)
        assert run.job is not None
        assert (run.status, run.job.stdout()) == (ExperimentState.DONE, f"there 42\n{venv}\n")
        bad = Experiment("bad", site, ["echo never"], modules=["sim", "nosuch/2"])
        run = client.schedule(bad)
        wait_for(lambda: run.status is ExperimentState.FAILED, 60, "its end")
        assert run.job is not None
        assert run.job.stdout() == ""
        words = "Lmod has detected the following error: The following module(s) are unknown:"
        assert f"module load nosuch/2: {words}" in run.why()
        told = run.job.stderr().splitlines()
        assert (told[0].strip(), told[-1]) == (words, f"wlm: module load nosuch/2: {words}")


@pytest.mark.parametrize("site", ["near", "far"])
def test_a_site_without_room(settings: Settings, site: str) -> None:
    large = Experiment(
        "large",
        site,
        ["true"],
        resources=Resources(disk_mb=1_000_000_000),
        retry=Retry(tries=2, backoff_s=0.1),
    )
    with running(settings, concurrency=2):
        run = Client(settings).schedule(large)
        wait_for(lambda: "setup: paused" in run.why(), 30, "the end of its tries")
        assert "MiB are free, 1000000000 needed" in run.why()
        run.cancel()
