"""The same experiment file on every kind of site, from its inputs to its outputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from services.aurora import PrivateAurora
from services.processes import wait_for
from services.sshd import PrivateSshd
from wlm_tasks import Client, Experiment, Settings, schedule_experiment
from wlm_tasks.config.settings import SiteSettings
from wlm_tasks.control.embedded import running
from wlm_tasks.model.states import ExperimentState

FILE = r"""
name = "turn around"
site = "@SITE@"
priority = "high"
commands = [
  "tac -- '-data/in put' > out",
  "printf '%s\\n' \"$WORD\" '{{.State}}' >> out",
  "echo heard; echo trouble >&2",
]
inputs = [{ src = "@PLACE@/in é.txt", dest = "-data/in put" }]
outputs = [{ src = "out", dest = "@PLACE@/@SITE@/out 1.txt" }]

[variables]
WORD = '{{thermos.ports[x]}} $HOME "quoted"'

[resources]
cpus = 2
memory_mb = 64
walltime_s = 60
"""


@pytest.fixture
def settings(
    aurora: PrivateAurora, login_node: PrivateSshd, sshd: PrivateSshd, tmp_path: Path
) -> Settings:
    """An installation with all of them; the Aurora scheduler really runs what it is sent."""
    aurora.set(execute=True)
    own = {"url": aurora.url, "cluster": "c", "role": "gateway", "environment": "devel"}
    kinds: dict[str, tuple[str, Mapping[str, str | int]]] = {
        "here": ("local", {}),
        "there": ("ssh", sshd.options),
        "cluster": ("slurm", login_node.options),
        "mesos": ("aurora", own),
    }
    sites = {
        name: SiteSettings(
            name=name, kind=kind, scratch=str(tmp_path / name / "scratch"), poll_s=0.2, options=more
        )
        for name, (kind, more) in kinds.items()
    }
    return Settings(data_dir=tmp_path / "data", sites=sites)


def test_one_file_for_every_site(settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "in é.txt").write_text("one\ntwo\n")
    client = Client(settings)
    with running(settings, concurrency=2):
        for site in settings.sites:
            file = tmp_path / "experiment.toml"
            file.write_text(FILE.replace("@SITE@", site).replace("@PLACE@", str(tmp_path)))
            run = schedule_experiment(Experiment.from_file(file), client=client).wait(60)
            assert run.status is ExperimentState.DONE, run.why()
            assert (run.job.stdout(), run.job.stderr()) == ("heard\n", "trouble\n")
            out = (tmp_path / site / "out 1.txt").read_text()
            assert out == 'two\none\n{{thermos.ports[x]}} $HOME "quoted"\n{{.State}}\n'
    page = f"{settings.sites['mesos'].options['url']}/scheduler/{run.job.native_id}"
    assert run.job.links() == {"aurora": page}


def test_why_it_waits_on_aurora_and_a_cancel(settings: Settings, aurora: PrivateAurora) -> None:
    aurora.set(never_schedule=True)
    client = Client(settings)
    with running(settings, concurrency=2):
        run = client.schedule(Experiment(name="waits", site="mesos", commands=["true"]))
        wait_for(lambda: "Insufficient: CPU" in run.why(), 30, "the reason")
        run.cancel()
        wait_for(lambda: run.status is ExperimentState.CANCELLED, 30, "the end")
        assert aurora.seen()["active"] == 0
