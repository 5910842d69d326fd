"""An experiment on a plain host behind SSH, from its input to its output."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from services.processes import wait_for
from services.sshd import PrivateSshd
from wlm_tasks import Client, Experiment, Settings, Transfer
from wlm_tasks.config.settings import SiteSettings
from wlm_tasks.control.embedded import running
from wlm_tasks.model.states import ExperimentState


def settings_of(sshd: PrivateSshd, tmp_path: Path) -> Settings:
    site = SiteSettings(
        name="far", kind="ssh", scratch=str(tmp_path / "scratch"), poll_s=0.2, options=sshd.options
    )
    return Settings(data_dir=tmp_path / "data", sites={"far": site})


def test_input_job_and_output(sshd: PrivateSshd, tmp_path: Path) -> None:
    source, target = tmp_path / "in é.txt", tmp_path / "results" / "out 1.txt"
    source.write_text("one\ntwo\n")
    settings = settings_of(sshd, tmp_path)
    experiment = Experiment(
        name="far away",
        site="far",
        commands=["mkdir -p res", 'tac -- "-data/in put" > "res/-out"', "echo $SSH_CONNECTION"],
        inputs=[Transfer(source, "-data/in put")],
        outputs=[Transfer("res/-out", target)],
    )
    with running(settings, concurrency=2):
        run = Client(settings).schedule(experiment).wait(60)
        assert run.status is ExperimentState.DONE
        assert target.read_text() == "two\none\n"
        workdir = tmp_path / "scratch" / run.id
        assert workdir.stat().st_mode & 0o777 == 0o700
        assert not list((workdir / ".wlm" / "staging").iterdir())


@pytest.mark.parametrize("site", ["far", "near"])
def test_directories(sshd: PrivateSshd, tmp_path: Path, site: str) -> None:
    settings = settings_of(sshd, tmp_path)
    near = SiteSettings(name="near", kind="local", scratch=str(tmp_path / "near"))
    settings = replace(settings, sites={**settings.sites, "near": near})
    mesh = tmp_path / "mesh"
    for number in range(5):
        (mesh / f"d{number}").mkdir(parents=True)
        (mesh / f"d{number}" / "points").write_text(f"{number}\n")
    (tmp_path / "a.tbl").write_text("a\n")
    (tmp_path / "b.tbl").write_text("b\n")
    experiment = Experiment(
        name="directories",
        site=site,
        commands=["mkdir out", "cat mesh/*/points > out/points", "cat *.tbl > out/tables"],
        inputs=[Transfer(f"{mesh}/", "mesh/"), Transfer(f"{tmp_path}/*.tbl", "./")],
        outputs=[Transfer("out/", f"{tmp_path}/got/"), Transfer("mesh/d[01]", f"{tmp_path}/m/")],
    )
    with running(settings, concurrency=2):
        run = Client(settings).schedule(experiment).wait(60)
        assert run.status is ExperimentState.DONE
    got = tmp_path / "got"
    assert (got / "points").read_text() == "0\n1\n2\n3\n4\n"
    assert (got / "tables").read_text() == "a\nb\n"
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == ["d0", "d1"]


def test_an_output_that_is_missing_fails(sshd: PrivateSshd, tmp_path: Path) -> None:
    settings = settings_of(sshd, tmp_path)
    experiment = Experiment(
        name="nothing", site="far", commands=["true"], outputs=[Transfer("gone", tmp_path / "x")]
    )
    with running(settings, concurrency=1):
        run = Client(settings).schedule(experiment)
        wait_for(lambda: run.status is ExperimentState.FAILED, 60, "the end")
        assert "gone: No such file or directory" in run.why()


def test_a_cancel_reaches_the_host(sshd: PrivateSshd, tmp_path: Path) -> None:
    settings, mark = settings_of(sshd, tmp_path), tmp_path / "mark"
    experiment = Experiment(name="long", site="far", commands=[f"touch {mark}", "sleep 100"])
    with running(settings, concurrency=2):
        run = Client(settings).schedule(experiment)
        wait_for(mark.exists, 60, "the job's begin")
        run.cancel()
        wait_for(lambda: run.status is ExperimentState.CANCELLED, 30, "the end")
