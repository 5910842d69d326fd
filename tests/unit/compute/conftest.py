"""Sites as fixtures."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from unit.compute.sites import FakeTestSite, LocalSite, Site, SshSite

from services.sshd import PrivateSshd


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
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB; needs root and the right to mount."""
    place = tmp_path / "small"
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a small file system")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture(params=["local", "fake", "ssh"])
def site(request: pytest.FixtureRequest) -> Site:
    """Each kind of site in turn."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Site)
    return found
