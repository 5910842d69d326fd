"""The whole system on clusters, whatever is killed: workers, control, broker, Slurm, connections.

Some experiments are cancelled meanwhile, so that those who cancel, poll and submit are all hit. A
controller that was killed may have forgotten jobs; these are tried anew by a further attempt, so it
is attempts that are counted: each may have one line in the ledger.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from re import fullmatch

import pytest
from campaign.slurm_world import AT_ONCE
from campaign.test_queue_loss import FAST

from services.aurora import PrivateAurora
from services.fixtures import MakeRabbitMQ, MakeSlurm, MakeSshd
from services.fleet import ALL_QUEUES, Chaos, Fleet, Layout
from services.slurm import PrivateSlurm
from services.sshd import PrivateSshd
from wlm_tasks.handles import ExperimentHandle, SweepHandle
from wlm_tasks.model.states import FINAL, ExperimentState

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(1800)]
#: seconds between two times that Slurm's operator has nodes tell which jobs they have
_RECOUNT_S = 15.0


@dataclass
class ClusterChaos(Chaos):
    """Strikes the clusters, too, and changes its mind about experiments."""

    slurm: PrivateSlurm | None = None
    login: PrivateSshd | None = None
    open_ones: list[ExperimentHandle] = field(default_factory=list)

    def kill_controller(self, _rng: random.Random) -> None:
        """KILL slurmctld, which loses what it had not saved, and start it again."""
        assert self.slurm is not None
        self.slurm.kill_controller()
        self.slurm.start_controller()

    def kill_connections(self, _rng: random.Random) -> None:
        """Cut all SSH connections; what was begun by them goes on."""
        assert self.login is not None
        self.login.cut()

    def kill_experiment(self, rng: random.Random) -> None:
        """Cancel an experiment, whatever it is at."""
        self.open_ones.pop(rng.randrange(len(self.open_ones))).cancel()


@pytest.fixture
def slurm_alone(make_slurm: MakeSlurm) -> PrivateSlurm:
    """A Slurm that may be broken; it runs no more at a time than this host can start."""
    slurm = make_slurm(nodes=2)
    slurm.command("scontrol", "update", "PartitionName=debug", f"MaxCPUsPerNode={AT_ONCE}")
    return slurm


@pytest.fixture
def login(make_sshd: MakeSshd, slurm_alone: PrivateSlurm) -> PrivateSshd:
    """The login node of that Slurm."""
    server = make_sshd()
    lines = [f"export {name}={value}\n" for name, value in slurm_alone.environ.items()]
    (server.home / ".bashrc").write_text("".join(lines))
    return server


def tables(directory: Path, sites: Mapping[str, tuple[str, Mapping[str, object]]]) -> str:
    """The sites' tables of wlm.toml."""
    lines = []
    for name, (kind, options) in sites.items():
        usual = {"kind": kind, "scratch": str(directory / name), "poll_s": 1, "probe_s": 1}
        lines.append(f"[sites.{name}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in {**usual, **options}.items()]
    return "\n".join(lines)


def sweep(fleet: Fleet, site: str, count: int) -> SweepHandle:
    """Experiments whose payloads write down which attempt they are."""
    return fleet.sweep(
        count,
        site=site,
        commands=[f'echo "{{n}}:$WLM_JOB_TOKEN" >> {fleet.ledger}', "sleep 0.3"],
        retry={"tries": 100, "backoff_s": 0.5, "max_backoff_s": 2.0, "jobs": 10},
    )


def test_kill_9_at_random_times(  # noqa: PLR0917 - fixtures
    tmp_path: Path,
    make_rabbitmq: MakeRabbitMQ,
    slurm_alone: PrivateSlurm,
    login: PrivateSshd,
    aurora: PrivateAurora,
    long_campaign: bool,
) -> None:
    aurora.set(execute=True)
    count, faults = (400, 200) if long_campaign else (60, 30)
    broker = make_rabbitmq()
    own = {"url": aurora.url, "cluster": "c", "role": "gateway", "environment": "devel"}
    sites: dict[str, tuple[str, Mapping[str, object]]] = {
        "plain": ("ssh", login.options),
        "cluster": ("slurm", login.options),
        "mesos": ("aurora", own),
    }
    layout = Layout(
        workers=("envsetup,staging", "jobsub,monitor", ALL_QUEUES),
        controls=2,
        # so many deaths are no step's own doing
        settings=FAST.replace("[steps]", "[steps]\npoison_after = 100")
        + tables(tmp_path / "sites", sites),
    )
    with Fleet(tmp_path, broker.url, layout) as fleet:
        begun = time.monotonic()
        sweeps = {site: sweep(fleet, site, count) for site in sites}
        everything = [member for one in sweeps.values() for member in one]
        weights = {"worker": 4, "child": 6, "control": 3, "broker": 1}
        chaos = ClusterChaos(
            fleet,
            broker,
            seed=20261128,
            pause_s=(0.1, 0.8),
            weights={**weights, "controller": 2, "connections": 3, "experiment": 6},
            slurm=slurm_alone,
            login=login,
            open_ones=list(everything),
        )

        recounted = [begun]

        def ended() -> bool:
            with suppress(RuntimeError):  # its controller may just be down
                slurm_alone.resume_nodes()
                if time.monotonic() - recounted[0] > _RECOUNT_S:
                    recounted[0] = time.monotonic()
                    slurm_alone.recount_jobs()
            return all(FINAL.issuperset(one.status) for one in sweeps.values())

        try:
            chaos.run_until(ended, faults=faults, timeout_s=900 if long_campaign else 300)
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{states(everything)}\n{fleet.logs()}") from error
        check(fleet, everything)
        kills = ", ".join(f"{number} {target}" for target, number in sorted(chaos.done.items()))
        print(  # noqa: T201 - the campaign's result
            f"kills on clusters: {len(everything)} experiments, {kills}: 0 lost, 0 twice, "
            f"{fleet.steps_rerun()} steps re-run, {time.monotonic() - begun:.0f} s in all, "
            f"{in_arrays(fleet)} jobs in arrays"
        )
        assert in_arrays(fleet)


def in_arrays(fleet: Fleet) -> int:
    """How many jobs Slurm got as a task of an array."""
    with fleet.client.store.database.read() as connection:
        ids = connection.exec_driver_sql("SELECT native_id FROM jobs WHERE site = 'cluster'")
        return sum(fullmatch("[0-9]+_[0-9]+", one or "") is not None for one in ids.scalars())


def states(everything: list[ExperimentHandle]) -> str:
    """What is still open, and why."""
    lines = []
    for one in everything:
        with suppress(Exception):
            if one.status not in FINAL:
                lines.append(f"{one.id} {one.status}: {one.why()}")
    return "\n".join(lines)


def check(fleet: Fleet, everything: list[ExperimentHandle]) -> None:
    """Every experiment has ended as it should, and no attempt has run twice."""
    ran = Counter(fleet.ledger.read_text().split())
    assert not {line: times for line, times in ran.items() if times > 1}
    found = Counter(one.status for one in everything)
    assert found.keys() <= {ExperimentState.DONE, ExperimentState.CANCELLED}, (
        found,
        [one.why() for one in everything if one.status is ExperimentState.FAILED],
    )
    payloads = {line.partition(":")[2] for line in ran}
    for one in everything:
        if one.status is ExperimentState.DONE:
            assert any(token.startswith(f"wlm-{one.id.partition('-')[2]}-") for token in payloads)
