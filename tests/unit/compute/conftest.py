"""Sites as fixtures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from unit.compute.sites import FakeTestSite, LocalSite, Site
from unit.compute.slurm_site import SlurmSite

from services.slurm import PrivateSlurm


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    directory = tmp_path / "scratch"
    directory.mkdir()
    return directory


@pytest.fixture
def local(scratch: Path) -> Iterator[LocalSite]:
    """A local site with its working directory prepared."""
    site = LocalSite(scratch)
    site.backend.prepare(site.workdir)
    yield site
    site.clean()


@pytest.fixture
def fake(scratch: Path) -> FakeTestSite:
    site = FakeTestSite(scratch)
    site.backend.prepare(site.workdir)
    return site


@pytest.fixture
def slurm_site(
    slurm: PrivateSlurm, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SlurmSite]:
    """The run's private Slurm, its commands on this host."""
    site = SlurmSite.of(slurm, scratch, monkeypatch)
    yield site
    site.clean()


@pytest.fixture(params=["local", "fake", "slurm_site"])
def site(request: pytest.FixtureRequest) -> Site:
    """Each kind of site in turn."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Site)
    return found
