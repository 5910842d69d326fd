"""Slurm as a site, and one of a test's own to break."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from unit.compute.slurm_site import SlurmSite

from services.slurm import PrivateSlurm

if TYPE_CHECKING:  # at run time it would be loaded before pytest can look into its assertions
    from services.fixtures import MakeSlurm


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    directory = tmp_path / "scratch"
    directory.mkdir()
    return directory


@pytest.fixture
def site(
    slurm: PrivateSlurm, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SlurmSite]:
    """The run's private Slurm; it is not to be broken."""
    site = SlurmSite.of(slurm, scratch, monkeypatch)
    yield site
    site.clean()


#: settings with which slurmstepd itself kills a job that uses too much memory, without cgroups
KILLS_FOR_MEMORY = {
    "ProctrackType": "proctrack/linuxproc",
    "JobAcctGatherType": "jobacct_gather/linux",
    "JobAcctGatherFrequency": 1,
    "JobAcctGatherParams": "OverMemoryKill",
}
#: a payload that uses 300 MiB until it is killed
GREEDY = f"exec {sys.executable} -c 'import signal; x = bytearray(300 << 20); signal.pause()'"


#: makes a site on a Slurm of the test's own, with or without accounting, with these lines of
#: slurm.conf
MakeSite = Callable[..., SlurmSite]


@pytest.fixture
def make_site(
    make_slurm: MakeSlurm, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MakeSite]:
    made: list[SlurmSite] = []

    def make(*, accounting: bool = False, **settings: object) -> SlurmSite:
        slurm = make_slurm(settings=settings, accounting=accounting)
        site = SlurmSite.of(slurm, scratch, monkeypatch)
        made.append(site)
        return site

    yield make
    for site in made:
        site.clean()
