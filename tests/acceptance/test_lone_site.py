"""Experiments on an Aurora site whose agents share no directory with the workers."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from services.aurora import PrivateAurora
from services.processes import script, wait_for
from services.webfiles import WebFiles
from wlm_tasks import Client, Experiment, Settings, Transfer
from wlm_tasks.config.settings import SiteSettings
from wlm_tasks.control.embedded import running
from wlm_tasks.errors import InvalidPathError
from wlm_tasks.handles import ExperimentHandle
from wlm_tasks.model.states import FINAL, ExperimentState


def site(aurora: PrivateAurora, web: WebFiles, scratch: Path) -> SiteSettings:
    aurora.set(execute=True)
    own = {"url": aurora.url, "cluster": "c", "role": "gateway", "environment": "devel"}
    more: dict[str, str | int] = {"shared_scratch": False, "upload_url": f"{web.url}/runs"}
    return SiteSettings(
        name="alone", kind="aurora", scratch=str(scratch), options=more | own, poll_s=0.2
    )


@pytest.fixture
def client(aurora: PrivateAurora, web: WebFiles, tmp_path: Path) -> Iterator[Client]:
    """An installation with such a site that is at work."""
    sites = {"alone": site(aurora, web, tmp_path / "scratch")}
    settings = Settings(data_dir=tmp_path / "data", sites=sites)
    (web.directory / "in").mkdir()
    (web.directory / "in" / "numbers.txt").write_text("3\n1\n2\n")
    with running(settings, concurrency=2):
        client = Client(settings)
        yield client
        client.close()


def sort(web: WebFiles, *, src: str = "in/numbers.txt", to: str = "out", **more: str) -> Experiment:
    return Experiment(
        name="sort",
        site="alone",
        commands=["echo sorting {n}; echo trouble >&2", "sort data/in.txt > sorted.txt"],
        inputs=[Transfer(f"{web.url}/{src}", "data/in.txt", sha256=more.get("digest"))],
        outputs=[Transfer(more.get("made", "sorted.txt"), f"{web.url}/{to}/{{n}}.txt")],
    )


def end(client: Client, experiment: Experiment) -> ExperimentHandle:
    return ended(client.schedule(experiment, params={"n": 7}))


def ended(run: ExperimentHandle) -> ExperimentHandle:
    wait_for(lambda: run.status in FINAL, 60, "the end")
    return run


def test_an_experiment_from_its_input_to_its_output(client: Client, web: WebFiles) -> None:
    digest = sha256(b"3\n1\n2\n").hexdigest()
    run = end(client, sort(web, digest=digest))
    assert run.status is ExperimentState.DONE, run.why()
    assert (web.directory / "out" / "7.txt").read_text() == "1\n2\n3\n"
    assert run.job is not None
    assert (run.job.stdout(), run.job.stderr()) == ("sorting 7\n", "trouble\n")
    assert run.job.view.exit_code == 0
    names = [step.name for step in run.steps]
    assert names == ["setup", "stage_in", "submit", "monitor", "stage_out"]


def test_what_goes_wrong_is_named(client: Client, web: WebFiles) -> None:
    cases = {
        "Failed to fetch all URIs for container": sort(web, src="none"),
        f"expected {'0' * 64}": sort(web, digest="0" * 64),
        "outputs[0].src: 'lost.txt' was not made by the job": sort(web, made="lost.txt"),
        "/403/7.txt' was not taken by its server: status 403": sort(web, to="403"),
        "/507/7.txt' was not taken by its server: status 507": sort(web, to="507"),
    }
    runs = {said: client.schedule(one, params={"n": 7}) for said, one in cases.items()}
    for said, run in runs.items():
        assert ended(run).status is ExperimentState.FAILED
        assert said in run.why()
    assert not (web.directory / "out").exists()


@pytest.mark.parametrize(
    ("field", "place"),
    [
        ("inputs[0].src", "file:///etc/hostname"),
        ("inputs[0].src", "/etc/hostname"),
        ("inputs[0].src", "sftp://host/in"),
        ("inputs[0].src", "http://host/a b"),
        ("inputs[0].src", "http://host/stdout"),
        ("outputs[0].dest", "out.txt"),
        ("outputs[0].dest", "hdfs://host/out"),
        ("outputs[0].dest", "sftp://host/out"),
    ],
)
def test_a_place_that_cannot_be_carried_is_refused_when_handed_in(
    client: Client, aurora: PrivateAurora, field: str, place: str
) -> None:
    transfer = {"inputs[0].src": Transfer(place, "in"), "outputs[0].dest": Transfer("o", place)}
    kind = field.partition("[")[0]
    experiment = Experiment(
        name="x", site="alone", commands=["true"], **{kind: [transfer[field]]}  # type: ignore[arg-type]
    )  # fmt: skip
    before = aurora.calls("createJob")
    with pytest.raises(InvalidPathError) as caught:
        client.schedule(experiment)
    assert caught.value.message.startswith(f"{field}: got ")
    assert "expected a URL " in caught.value.message
    assert client.list() == []
    assert aurora.calls("createJob") == before


def test_whether_the_site_works(aurora: PrivateAurora, web: WebFiles, tmp_path: Path) -> None:
    settings = site(aurora, web, tmp_path / "scratch")
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.options.items()]
    (tmp_path / "wlm.toml").write_text(
        "\n".join(
            ["[sites.alone]", 'kind = "aurora"', f'scratch = "{settings.scratch}"', *lines, ""]
        )
    )
    environ = {**os.environ, "WLM_DATA_DIR": str(tmp_path / "data"), "COLUMNS": "200"}
    told = subprocess.run(
        [script("wlm"), "site", "test", "alone", "-o", "json"],
        cwd=tmp_path, env=environ, text=True, capture_output=True, timeout=90, check=False,
    )  # fmt: skip
    checks = {one["name"]: one for one in json.loads(told.stdout)}
    assert all(one["good"] for one in checks.values()), told.stdout
    assert "upload_url" in checks["open"]["text"]
    assert "by the job itself" in checks["stage in"]["text"]
    assert told.returncode == 0
