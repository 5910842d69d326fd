"""One run per attempt on Slurm: submitters die, controllers stand still, connections break.

Each payload adds its token to a ledger. Whoever meets a fault submits again until it is decided
what became of the first; in the end every token must be in the ledger once, every job must have
SUCCEEDED, and Slurm must know one job of each name.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from campaign.slurm_faults import ARRAY_FAULTS, FAULTS
from campaign.slurm_world import AT_ONCE, Result, SlurmWorld, Struck
from unit.compute.slurm_site import SlurmSite

from services.fixtures import MakeSlurm
from services.processes import wait_for
from services.slurm import PrivateSlurm
from services.sshd import PrivateSshd
from wlm_tasks.compute.base import JobSpec
from wlm_tasks.compute.slurm.backend import SlurmBackend
from wlm_tasks.errors import BackendUnavailableError

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(1800)]
SEED = 20261125


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    directory = tmp_path / "scratch"
    directory.mkdir()
    return directory


@pytest.fixture
def site(
    slurm: PrivateSlurm, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SlurmSite]:
    yield SlurmSite.of(slurm, scratch, monkeypatch)
    slurm.drop_jobs()


@pytest.fixture
def own(make_slurm: MakeSlurm, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> SlurmSite:
    """A site on a Slurm of the test's own that runs no more at a time than this host can start.

    If a hundred start at once, launches time out, and what Slurm puts back waits for two minutes.
    """
    slurm = make_slurm(nodes=2)
    slurm.command("scontrol", "update", "PartitionName=debug", f"MaxCPUsPerNode={AT_ONCE}")
    return SlurmSite.of(slurm, scratch, monkeypatch)


def check(results: list[Result]) -> None:
    for result in results:
        assert (result.duplicates, result.lost, result.stuck) == (0, 0, 0), result


def test_submitters_killed_at_each_point(own: SlurmSite, long_campaign: bool) -> None:
    """Half of the jobs start as soon as they can, half not before all is decided."""
    world = SlurmWorld(own, SEED)
    struck, count = [Struck(fault.name) for fault in FAULTS], 25 if long_campaign else 2
    for hold in (False, True):
        with world.holding(hold):
            pairs = zip(FAULTS, struck, strict=True)
            met = [world.strike(fault, one, count) for fault, one in pairs]
            world.settle([spec for specs in met for spec in specs])
    check(world.finish(struck))


def test_submitters_of_arrays_killed_at_each_point(own: SlurmSite, long_campaign: bool) -> None:
    """Whoever is met is submitted alone until it is decided; all five of an array are met."""
    world = SlurmWorld(own, SEED)
    struck = [Struck(fault.name) for fault in ARRAY_FAULTS]
    count = 10 if long_campaign else 1
    for hold in (False, True):
        with world.holding(hold):
            pairs = zip(ARRAY_FAULTS, struck, strict=True)
            met = [world.strike_arrays(fault, one, count) for fault, one in pairs]
            world.settle([spec for specs in met for spec in specs], 600.0)
    check(world.finish(struck, 900.0))


def test_a_controller_that_stands_still(own: SlurmSite, long_campaign: bool) -> None:
    """Stopped when ``sbatch`` has just been started, for shorter or longer than it waits."""
    world = SlurmWorld(own, SEED)
    struck, unanswered = Struck("the controller stopped"), 0
    for number in range(50 if long_campaign else 3):
        specs = [own.spec("true") for _ in range(AT_ONCE // 2)]
        struck.jobs += specs
        with world.holding(number % 2 == 0), ThreadPoolExecutor(1) as aside:
            settled = aside.submit(world.settle, specs)
            intents = [Path(spec.ref.attempt_dir, "intent") for spec in specs]
            wait_for(partial(_any_exists, intents), interval=0.002)
            # the first time at once, so that one at least gets no answer
            time.sleep(world.chance.uniform(0, world.whole_s) if number else 0)
            own.slurm.pause_controller()
            time.sleep(world.chance.uniform(0.3, 1.0) if number % 3 == 2 else 6.0)
            own.slurm.resume_controller()
            unanswered += settled.result()
        struck.faults += 1
    print(f"calls without an answer: {unanswered}")  # noqa: T201 - the campaign's result
    assert unanswered
    check(world.finish([struck]))


def test_connections_that_are_cut(
    login_node: PrivateSshd, site: SlurmSite, long_campaign: bool
) -> None:
    """The script goes on, on the other host, and its answer reaches nobody."""
    backend = SlurmBackend(name="far", scratch=str(site.scratch), options=login_node.options)
    world = SlurmWorld(site, SEED, backend)
    struck = Struck("the connection cut")
    count = 50 if long_campaign else 4
    while struck.faults < count:
        specs = [site.spec("true") for _ in range(AT_ONCE)]
        struck.jobs += specs
        cut = threading.Timer(world.chance.uniform(0, 0.3), login_node.cut)
        cut.start()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            struck.faults += sum(pool.map(lambda spec: _fails(backend, spec), specs))
        cut.join()
        assert len(struck.jobs) <= 20 * count, "no connection was cut in time"
    world.settle(struck.jobs)
    check(world.finish([struck]))
    backend.close()


def _fails(backend: SlurmBackend, spec: JobSpec) -> bool:
    try:
        backend.submit(spec)
    except BackendUnavailableError:
        return True
    return False


def _any_exists(paths: Sequence[Path]) -> bool:
    return any(path.exists() for path in paths)
