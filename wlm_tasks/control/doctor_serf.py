"""Whether Serf's agents are as they should be, and how to mend what is not."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from wlm_tasks.cluster.gossip import Member, MemberStatus
from wlm_tasks.cluster.launch import Launch, agents_directory, find_binary, running_agents
from wlm_tasks.cluster.neighbours import Neighbours
from wlm_tasks.cluster.rpc import RpcClient
from wlm_tasks.cluster.tags import Role, parse
from wlm_tasks.config import SerfSettings, Settings
from wlm_tasks.control.findings import Finding, fail, ok, warn
from wlm_tasks.errors import ConfigError, ServiceError

_NAME: Final = "serf"
_CONNECT_S: Final = 2.0


def examine_serf(settings: Settings) -> Iterator[Finding]:
    """Look at the program, the key, the agents of this host and whom they know."""
    serf = settings.serf
    if not serf.enabled:
        return
    try:
        binary = find_binary(serf)
        if serf.encrypt_key is not None:
            serf.encrypt_key.reveal()
        agents = running_agents(agents_directory(settings))
    except (ConfigError, ServiceError) as error:
        yield fail(_NAME, error.message)
        return
    except (OSError, ValueError, KeyError) as error:
        yield fail(_NAME, f"the agents' files cannot be read: {error}", "run this as their user")
        return
    if agents:
        for agent in agents:
            yield _agent(serf, agent)
    else:
        yield judge_none(binary, serf.join, [seed for seed in serf.join if _answers(seed)])


def judge_none(binary: str, seeds: tuple[str, ...], answering: list[str]) -> Finding:
    """Judge a host without an agent by whether one could join."""
    if seeds and not answering:
        mend = "start the seeds; see that TCP and UDP get through to their ports"
        return fail(_NAME, f"no seed answers: {', '.join(seeds)}", mend)
    text = f"{binary} is there, but no agent of this user runs on this host"
    return warn(_NAME, text, "start a worker or control, or: wlm agent")


def _agent(serf: SerfSettings, agent: Launch) -> Finding:
    name = f"{_NAME} {agent.node}"
    try:
        with RpcClient(agent.rpc_port, agent.rpc_key) as gossip:
            trouble = Neighbours(serf).look(gossip, agent.node)
            members = gossip.members()
    except ServiceError as error:
        return fail(name, error.message, "its process starts it again; see agent.log beside it")
    return judge_members(name, members, trouble, encrypted=serf.encrypt_key is not None)


def judge_members(
    name: str, members: list[Member], trouble: str | None, *, encrypted: bool
) -> Finding:
    """Judge what an agent knows of others."""
    if trouble is not None:
        return fail(name, trouble, "correct serf.join and serf.encrypt_key, or start the seeds")
    alive = [member for member in members if member.status is MemberStatus.ALIVE]
    told = [parse(member.tags) for member in alive]
    workers = sum(one is not None and one.role is Role.WORKER for one in told)
    failed = sum(member.status is MemberStatus.FAILED for member in members)
    text = f"{len(alive)} members alive, {workers} of them workers; {failed} failed"
    if strangers := sum(one is None for one in told):
        mend = "nobody else should have serf.encrypt_key: see `serf members`"
        return warn(name, f"{text}; {strangers} alive are not ours", mend)
    return ok(name, text if encrypted else f"{text}; not encrypted")


def _answers(seed: str) -> bool:
    host, _, port = seed.rpartition(":")
    with suppress(OSError, UnicodeError):
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
        return True
    return False
