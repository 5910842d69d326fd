"""Agents of processes: started, watched, told, ended; and what may be wrong with that."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import sys
from pathlib import Path

import pytest

from services.processes import Process, alive, wait_for
from services.serf import PrivateSerf, members_of, new_key, wait_until_joined
from wlm_tasks.cluster.gossip import EventKind, MemberStatus
from wlm_tasks.cluster.launch import SPOOL
from wlm_tasks.cluster.rpc import RpcClient
from wlm_tasks.cluster.spool import SpoolBatch
from wlm_tasks.cluster.tags import (
    LIMIT,
    Role,
    WorkerAttributes,
    WorkerState,
    encoded_size,
    parse,
)
from wlm_tasks.errors import ServiceError

#: a process that runs an agent and tells its pid, then lives until it is killed
_PARENT = """
import sys, threading
from pathlib import Path
from wlm_tasks.cluster.agent import SerfAgent
from wlm_tasks.cluster.tags import Role, WorkerAttributes
from wlm_tasks.config import SerfSettings

told = WorkerAttributes(role=Role.WORKER, name="w@host", incarnation="1")
settings = SerfSettings(enabled=True, bind="127.0.0.1", port=int(sys.argv[2]), ports=1)
agent = SerfAgent(settings, Path(sys.argv[1]), told)
starter = threading.Thread(target=agent.start, args=(20.0,))
starter.start()  # in a thread that ends: the agent must not end with it
starter.join()
print("agent", agent.pid, flush=True)
threading.Event().wait()
"""


def test_agents_find_each_other_by_their_seed_and_tell_their_attributes(serf: PrivateSerf) -> None:
    seed = serf.started("seed@host", role=Role.SEED)
    worker = serf.started("jobsub@host", "a7", queues=("jobsub", "staging"), cpus=8)
    wait_until_joined(seed, 2)
    found = members_of(seed)[worker.node]
    assert parse(found.tags) == WorkerAttributes(
        role=Role.WORKER,
        name="jobsub@host",
        incarnation="a7",
        queues=("jobsub", "staging"),
        cpus=8,
    )
    assert (found.address, found.status) == ("127.0.0.1", MemberStatus.ALIVE)
    assert worker.alive()
    assert worker.trouble is None


def test_changed_attributes_are_told_and_old_ones_taken_back(serf: PrivateSerf) -> None:
    seed = serf.started("seed@host", role=Role.SEED)
    worker = serf.started(zone="a", cpus=8)
    wait_until_joined(seed, 2)
    now = WorkerAttributes(
        role=Role.WORKER, name="w@host", incarnation="1", state=WorkerState.DRAINING
    )
    worker.set_tags(now)
    wait_for(lambda: members_of(seed)[worker.node].tags == now.tags, 10.0, "the new tags")


def test_more_than_512_bytes_of_tags_are_cut_as_serf_would_have_it(serf: PrivateSerf) -> None:
    worker = serf.started(capabilities=tuple(f"software-{n}" for n in range(100)))
    found = parse(members_of(worker)[worker.node].tags)
    assert found is not None
    assert len(found.capabilities) > 20
    assert not found.capabilities_complete


@pytest.mark.parametrize("length", [511, 512, 513])
def test_our_count_of_bytes_is_serfs(serf: PrivateSerf, length: int) -> None:
    worker = serf.started()
    with worker.connect() as gossip:
        own = gossip.members()[0].tags
        others = {f"k{n}": "x" * 31 for n in range(7)}  # more than 15 make the map's head longer
        rest = encoded_size({**own, **others, "x": "y" * 40}) - 40
        tags = {**own, **others, "x": "y" * (length - rest)}
        assert encoded_size(tags) == length
        if length <= LIMIT:
            gossip.set_tags(tags)
        else:
            with pytest.raises(ServiceError, match="exceeds limit of 512 bytes"):
                gossip.set_tags(tags)


def test_a_planned_stop_is_a_leave_and_leaves_no_keys(serf: PrivateSerf) -> None:
    seed = serf.started("seed@host", role=Role.SEED)
    worker = serf.started()
    wait_until_joined(seed, 2)
    pid = worker.pid
    assert pid
    worker.leave()
    wait_for(lambda: members_of(seed)[worker.node].status is MemberStatus.LEFT, 10.0, "left")
    assert not alive(pid)
    assert not worker.alive()
    assert not (serf.base / worker.node / "agent.json").exists()


def test_a_killed_agent_is_there_again_under_its_name(serf: PrivateSerf) -> None:
    seed = serf.started("seed@host", role=Role.SEED)
    worker = serf.started()
    wait_until_joined(seed, 2)
    pid, node = worker.pid, worker.node
    assert pid
    worker.set_tags(WorkerAttributes(role=Role.WORKER, name="w@host", incarnation="1", cpus=7))
    wait_for(lambda: members_of(seed)[node].tags.get("cpu") == "7", 10.0, "the tag")
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: worker.alive() and worker.pid != pid, 10.0, "a new agent")
    wait_until_joined(worker, 2)
    assert worker.node == node
    assert members_of(worker)[node].tags["cpu"] == "7"
    wait_for(lambda: members_of(seed)[node].status is MemberStatus.ALIVE, 15.0, "missed by nobody")
    assert len(members_of(seed)) == 2


def _bound(taker: socket.socket, port: int) -> bool:
    try:
        taker.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def test_where_its_port_was_taken_meanwhile_it_has_another_name(serf: PrivateSerf) -> None:
    seed = serf.started("seed@host", role=Role.SEED)
    first = serf.port()
    worker = serf.started(settings=serf.settings(port=first, ports=40))
    pid, node = worker.pid, worker.node
    assert pid
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as thief:
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: _bound(thief, first), 5.0, "its port", interval=0.001)
        wait_for(lambda: worker.alive() and worker.pid != pid, 10.0, "a new agent")
    assert worker.node != node
    wait_for(lambda: worker.node in members_of(seed), 10.0, "the new name")
    tags = members_of(seed)[worker.node].tags
    assert (tags["cel"], tags["inc"]) == ("w@host", "1")


def test_agents_of_one_host_take_the_next_free_ports(serf: PrivateSerf) -> None:
    first = serf.port()
    workers = [
        serf.agent(f"w{n}@host", settings=serf.settings(port=first, ports=40, join=()))
        for n in range(3)
    ]
    for worker in workers:  # all at once, so that they may be after the same port
        worker.start()
    wait_for(lambda: all(worker.alive() for worker in workers), 20.0, "all")
    ports = {members_of(worker)[worker.node].port for worker in workers}
    assert len(ports) == 3
    assert min(ports) >= first


def test_an_agent_ends_with_its_process_not_with_the_thread_that_asked(
    serf: PrivateSerf, tmp_path: Path
) -> None:
    process = Process(
        [sys.executable, "-c", _PARENT, str(tmp_path / "agents"), str(serf.port())],
        log=tmp_path / "parent.log",
    )
    process.wait_for_output("agent ", 20.0)
    pid = int(process.output.split()[-1])
    assert alive(pid)
    process.kill9()
    wait_for(lambda: not alive(pid), 5.0, "the agent's end")


def test_keys_are_in_one_private_file_only(serf: PrivateSerf) -> None:
    worker = serf.started()
    directory = serf.base / worker.node
    config = json.loads((directory / "agent.json").read_text())
    secrets = {serf.key_file.read_text(), config["rpc_auth"]}
    assert config["encrypt_key"] in secrets
    assert stat.S_IMODE((directory / "agent.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    for shown in ("cmdline", "environ"):
        text = Path(f"/proc/{worker.pid}/{shown}").read_text()
        assert not any(secret in text for secret in secrets)
    log = (directory / "agent.log").read_text()
    assert not any(secret in log for secret in secrets)


def test_the_next_life_takes_over_what_the_last_one_knew(serf: PrivateSerf) -> None:
    seed = serf.started("seed@host", role=Role.SEED)
    worker = serf.started("w@host", "1")
    wait_until_joined(seed, 2)
    directory = serf.base / worker.node
    worker.leave()
    assert seed.node in (directory / "snapshot").read_text()
    again = serf.started("w@host", "2", settings=serf.settings(join=()))
    wait_until_joined(again, 2)  # it was told of no seed
    assert not directory.exists()


def test_events_reach_the_spool_by_the_handler_of_control_alone(serf: PrivateSerf) -> None:
    handler = str(Path(__file__).parents[3] / "deploy" / "serf" / "spool-events")
    seed = serf.started("control@host", role=Role.CONTROL, settings=serf.settings(handler=handler))
    worker = serf.started(settings=serf.settings(handler=handler))
    wait_until_joined(seed, 2)
    spool = serf.base / SPOOL
    wait_for(lambda: spool.exists() and worker.node in spool.read_text(), 10.0, "the events")
    batch = SpoolBatch.take(spool)
    assert sorted(one.node for one in batch.records) == sorted([seed.node, worker.node])
    assert {one.event for one in batch.records} == {EventKind.JOIN}
    assert parse(batch.records[-1].tags) is not None


# ---- what may be wrong


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that is alone is looked at more often."""
    monkeypatch.setattr("wlm_tasks.cluster.neighbours._ALONE_S", 0.2)


def test_an_agent_that_hangs_is_ended_and_started_again(
    serf: PrivateSerf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wlm_tasks.cluster.neighbours._LOOK_S", 0.1)
    monkeypatch.setattr("wlm_tasks.cluster.neighbours._ALONE_S", 0.1)
    monkeypatch.setattr("wlm_tasks.cluster.agent._HANGS_S", 0.5)
    worker = serf.started()
    pid = worker.pid
    assert pid
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: worker.alive() and worker.pid != pid, 15.0, "a new agent")
    assert not alive(pid)


def test_no_program(serf: PrivateSerf) -> None:
    worker = serf.agent(settings=serf.settings(binary="/no/serf"))
    assert not worker.start(10.0)
    assert worker.trouble == "Serf: there is no program /no/serf here; correct serf.binary"
    with pytest.raises(ServiceError, match="no program /no/serf"):
        worker.connect()


def test_a_program_that_is_another(serf: PrivateSerf) -> None:
    worker = serf.agent(settings=serf.settings(binary="/bin/false"))
    assert not worker.start(10.0)
    assert worker.trouble == "Serf: the agent does not start: no words"


def test_a_directory_that_cannot_be(serf: PrivateSerf) -> None:
    serf.base.write_text("a file")
    worker = serf.agent()
    assert not worker.start(10.0)
    assert worker.trouble == f"Serf: {serf.base}: File exists"


def test_wrong_encryption_key(serf: PrivateSerf, impatient: None) -> None:
    serf.started("seed@host", role=Role.SEED)
    key = new_key()
    other = serf.settings(key_file=serf.write_key(key, "other"))
    worker = serf.started(settings=other)
    trouble = wait_for(lambda: worker.trouble, 10.0, "trouble")
    assert trouble == f"Serf: serf.encrypt_key is not the key of the agents at {serf.seed}"
    assert worker.alive()  # it goes on trying


def test_an_encryption_key_that_is_none(serf: PrivateSerf) -> None:
    worker = serf.agent(settings=serf.settings(key_file=serf.write_key("hunter2", "bad")))
    assert not worker.start(10.0)
    assert worker.trouble is not None
    assert "expected 32 bytes in base64" in worker.trouble
    assert "hunter2" not in worker.trouble


def test_a_seed_that_is_away_is_told_until_it_answers(serf: PrivateSerf, impatient: None) -> None:
    port = serf.port()
    worker = serf.started(settings=serf.settings(join=(f"127.0.0.1:{port}",)))
    trouble = wait_for(lambda: worker.trouble, 10.0, "trouble")
    assert (trouble or "").startswith(f"Serf: no seed answers (127.0.0.1:{port})")
    serf.started("seed@host", role=Role.SEED, settings=serf.settings(port=port, join=()))
    wait_for(lambda: worker.trouble is None, 15.0, "peace")


def test_an_address_of_another_host(serf: PrivateSerf) -> None:
    worker = serf.agent(settings=serf.settings(bind="203.0.113.9"))
    assert not worker.start(10.0)
    assert worker.trouble == "Serf: serf.bind 203.0.113.9 is no address of this host"


@pytest.mark.parametrize("address", ["127.0.0.9", "fd00::9"])
def test_where_others_reach_it_is_told_with_its_port(
    serf: PrivateSerf, impatient: None, address: str
) -> None:
    port = serf.port()
    worker = serf.started(settings=serf.settings(port=port, advertise=address, join=()))
    own = members_of(worker)[worker.node]
    assert (own.address, own.port) == (address, port)
    if ":" in address:  # which nobody can reach where it listens
        trouble = wait_for(lambda: worker.trouble, 10.0, "trouble")
        assert (
            trouble == f"Serf: listens on 127.0.0.1 but tells others {address}; set serf.advertise"
        )


def test_all_ports_taken(serf: PrivateSerf) -> None:
    first = serf.started("w1@host")
    port = members_of(first)[first.node].port
    worker = serf.agent("w2@host", settings=serf.settings(port=port))
    assert not worker.start(10.0)
    expected = f"Serf: none of the ports {port} to {port} is free on 127.0.0.1"
    assert worker.trouble == expected


def test_rpc_port_closed_and_wrong_rpc_key(serf: PrivateSerf) -> None:
    worker = serf.started()
    port = json.loads((serf.base / worker.node / "agent.json").read_text())["rpc_addr"].rpartition(
        ":"
    )[2]
    with pytest.raises(ServiceError, match="wrong RPC key") as refused:
        RpcClient(int(port), "hunter2")
    assert "hunter2" not in str(refused.value)
    worker.stop()
    with pytest.raises(ServiceError, match="port closed"):
        RpcClient(int(port), "hunter2")
