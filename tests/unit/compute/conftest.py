"""Sites as fixtures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from unit.compute.aurora_site import AuroraSite, LoneSite
from unit.compute.sites import FakeTestSite, LocalSite, Site, SshSite
from unit.compute.slurm_site import SlurmSite

from services.aurora import PrivateAurora
from services.slurm import PrivateSlurm
from services.sshd import PrivateSshd
from services.webfiles import WebFiles


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
def mesos(scratch: Path, aurora: PrivateAurora) -> Iterator[AuroraSite]:
    """An Aurora site with its working directory prepared."""
    site = AuroraSite(scratch, aurora)
    site.backend.prepare(site.workdir)
    yield site
    site.clean()


@pytest.fixture
def lone(scratch: Path, aurora: PrivateAurora, web: WebFiles) -> Iterator[LoneSite]:
    """An Aurora site whose agents share no directory with the workers."""
    site = LoneSite(scratch, aurora, web)
    site.backend.prepare(site.workdir)
    yield site
    site.clean()
    site.backend.close()


@pytest.fixture
def ssh(scratch: Path, sshd: PrivateSshd) -> Iterator[SshSite]:
    """A plain host behind SSH with its working directory prepared."""
    site = SshSite(scratch, sshd)
    site.backend.prepare(site.workdir)
    yield site
    site.clean()
    site.backend.close()


@pytest.fixture(params=["local", "ssh"])
def hosted(request: pytest.FixtureRequest) -> LocalSite:
    """Each kind of site whose jobs are processes of a host, this one."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, LocalSite)
    return found


@pytest.fixture
def slurm_site(
    slurm: PrivateSlurm, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SlurmSite]:
    """The run's private Slurm, its commands on this host."""
    site = SlurmSite.of(slurm, scratch, monkeypatch)
    yield site
    site.clean()


@pytest.fixture
def slurm_ssh(
    slurm: PrivateSlurm, login_node: PrivateSshd, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SlurmSite]:
    """The same Slurm from outside: its commands are on a host behind SSH."""
    site = SlurmSite.of(slurm, scratch, monkeypatch, **login_node.options)
    site.rings = False
    site.url = f"sftp://{login_node.user}@{login_node.host}:{login_node.port}"
    yield site
    site.clean()
    site.backend.close()


@pytest.fixture(params=["local", "fake", "ssh", "slurm_site", "slurm_ssh", "mesos", "lone"])
def site(request: pytest.FixtureRequest) -> Site:
    """Each kind of site in turn."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Site)
    return found
