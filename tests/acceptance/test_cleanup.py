"""Directories that are removed after the end, on this host and behind SSH."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.processes import wait_for
from services.sshd import PrivateSshd
from wlm_tasks import Cleanup, Client, Experiment, Settings, Transfer
from wlm_tasks.config.settings import SiteSettings
from wlm_tasks.control.embedded import running
from wlm_tasks.model.cleanup import CleanupPolicy
from wlm_tasks.model.states import ExperimentState


@pytest.fixture
def settings(sshd: PrivateSshd, tmp_path: Path) -> Settings:
    """A local site and one behind SSH; both remove the directories of what did not fail."""
    sites = {
        name: SiteSettings(
            name=name,
            kind=kind,
            scratch=str(tmp_path / name),
            poll_s=0.2,
            cleanup=CleanupPolicy.KEEP_ON_FAILURE,
            options=sshd.options if kind == "ssh" else {},
        )
        for name, kind in (("near", "local"), ("far", "ssh"))
    }
    return Settings(data_dir=tmp_path / "data", sites=sites)


@pytest.mark.parametrize("site", ["near", "far"])
def test_only_the_wanted_directories_are_left(
    settings: Settings, tmp_path: Path, site: str
) -> None:
    (tmp_path / "in").write_text("three\n")
    result = tmp_path / "results" / "out"
    good = Experiment(
        "good",
        site,
        ["mkdir d; cat in > d/out"],
        inputs=[Transfer(tmp_path / "in", "in")],
        outputs=[Transfer("d/out", result)],
    )
    bad = Experiment("bad", site, ["exit 3"])
    kept = Experiment("kept", site, ["true"], cleanup=Cleanup("keep"))
    with running(settings, concurrency=2):
        client = Client(settings)
        runs = {one.name: client.schedule(one) for one in (good, bad, kept)}
        wait_for(lambda: all(run.view.final for run in runs.values()), 60, "their ends")
        gone = runs["good"]
        wait_for(lambda: gone.view.removed_at is not None, 30, "the removal")
        assert gone.status is ExperimentState.DONE
        assert result.read_text() == "three\n"
        assert gone.job is not None
        assert gone.job.stdout() == ""
        left = {path.name for path in (tmp_path / site).iterdir() if path.name.startswith("exp-")}
        assert left == {runs["bad"].id, runs["kept"].id}
        result.unlink()
        gone.retry().wait(60)
        assert result.read_text() == "three\n"
        wait_for(lambda: gone.view.removed_at is not None, 30, "another removal")
        events = [event.state for event in client.store.views.events(gone.id)]
        assert events.count("REMOVED") == 2
        assert not (tmp_path / site / gone.id).exists()
