"""Real workers with agents of their own, as another agent sees them come, end and die."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.fleet import Fleet, Layout
from services.processes import alive, children, wait_for
from services.rabbitmq import PrivateRabbitMQ
from services.serf import PrivateSerf
from wlm_tasks.cluster.gossip import MemberStatus
from wlm_tasks.cluster.members import Membership, WorkerSeen
from wlm_tasks.cluster.tags import Role, WorkerState


@pytest.fixture
def membership(serf: PrivateSerf) -> Iterator[Membership]:
    watching = Membership(serf.started("watch@host", role=Role.SEED).connect)
    watching.start()
    yield watching
    watching.close()


@pytest.fixture
def fleet(
    rabbitmq: PrivateRabbitMQ, serf: PrivateSerf, membership: Membership, tmp_path: Path
) -> Iterator[Fleet]:
    settings = f"""
    [serf]
    enabled = true
    bind = "127.0.0.1"
    port = {serf.port()}
    join = ["{serf.seed}"]
    encrypt_key = "file:{serf.key_file}"
    """
    layout = Layout(workers=("staging", "envsetup,jobsub"), controls=0, settings=settings)
    with Fleet(tmp_path / "fleet", rabbitmq.new_vhost(), layout, supervised=False) as fleet:
        yield fleet


def test_a_killed_worker_and_one_that_stops(fleet: Fleet, membership: Membership) -> None:
    def lives(number: int) -> list[WorkerSeen]:
        workers = membership.snapshot().workers.values()
        mine = [w for w in workers if w.attributes.name.startswith(f"worker{number}@")]
        return sorted(mine, key=lambda one: one.since)

    def is_so(number: int, *wanted: MemberStatus) -> Callable[[], bool]:
        return lambda: [one.status for one in lives(number)] == list(wanted)

    wait_for(is_so(0, MemberStatus.ALIVE), 20.0, "worker0")
    wait_for(is_so(1, MemberStatus.ALIVE), 20.0, "worker1")
    (seen,) = lives(1)
    assert seen.attributes.queues == ("envsetup", "jobsub")
    assert seen.attributes.slots == 2
    killed, stopped = fleet.processes["worker0"], fleet.processes["worker1"]
    agents = [pid for pid in children(killed.pid) if is_agent(pid)]
    assert len(agents) == 1
    killed.kill9()
    wait_for(lambda: not alive(agents[0]), 5.0, "the agent ends with its worker")
    fleet.start_worker(0)  # the next life, before the end of the last one is noticed
    stopped.send(signal.SIGTERM)
    wait_for(is_so(1, MemberStatus.LEFT), 20.0, "worker1 has left")
    assert lives(1)[0].attributes.state is WorkerState.DRAINING
    both = {MemberStatus.FAILED, MemberStatus.ALIVE}
    wait_for(lambda: {one.status for one in lives(0)} == both, 30.0, "failed, and alive again")


def is_agent(pid: int) -> bool:
    return b"\0agent\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
