"""Slurm as a site, and one of a test's own to break."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from unit.compute.slurm_site import SlurmSite

from services.processes import wait_for
from services.slurm import PrivateSlurm
from wlm_tasks.compute.base import JobRef, JobState

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


def start_it_again(site: SlurmSite, ref: JobRef, native_id: str) -> None:
    """Have Slurm put a job that runs back into its queue by force, and start it once more."""
    site.slurm.command("scontrol", "update", f"JobId={native_id}", "Requeue=1")
    site.slurm.command("scontrol", "requeue", native_id)
    status = site.wait_end(ref)
    assert status.state is JobState.FAILED
    assert "put it back into its queue, it will not be run again" in status.reason
    # Slurm starts it again all the same, two minutes later at the earliest unless it is told to.
    # It sets that time when it has cleaned up after the first start, maybe after ours.
    duplicates = Path(ref.attempt_dir, "duplicates")

    def show() -> str:
        return site.slurm.command("scontrol", "show", "job", native_id)

    def started_again() -> bool:
        found = re.search(r"EligibleTime=(\S+)", show())
        assert found is not None
        if time.mktime(time.strptime(found[1], "%Y-%m-%dT%H:%M:%S")) > time.time() + 10:
            # not at once: a node launches nothing of a job in the second in which it has ended it
            with suppress(RuntimeError):
                site.slurm.command("scontrol", "update", f"JobId={native_id}", "StartTime=now+2")
        return duplicates.exists()

    try:
        wait_for(started_again, 100.0, "the second start", 1.0)
    except TimeoutError as late:
        raise AssertionError(f"{late}\n{show()}") from late
