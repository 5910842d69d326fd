"""Real Serf agents on loopback that share a key of their own."""

from __future__ import annotations

import base64
import os
import shutil
from pathlib import Path
from typing import Any

from services.ports import free_port, release_port
from services.processes import wait_for
from wlm_tasks.cluster.agent import SerfAgent
from wlm_tasks.cluster.gossip import Member
from wlm_tasks.cluster.tags import Role, WorkerAttributes
from wlm_tasks.config import Secret, SerfSettings
from wlm_tasks.config.serf import encryption_key


def new_key() -> str:
    """A key for agents, in base64."""
    return base64.b64encode(os.urandom(32)).decode()


class PrivateSerf:
    """Agents that know each other and nobody else; ends them all when it is closed.

    Every agent has a port of its own; the first one's is where the others join.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.base = directory / "agents"  #: where the agents' own directories are
        self.key_file = directory / "key"
        self.agents: list[SerfAgent] = []
        self._ports: list[int] = []
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.write_key(new_key())

    @staticmethod
    def available() -> bool:
        """True if Serf is installed."""
        return shutil.which("serf") is not None

    def write_key(self, key: str, name: str = "key") -> Path:
        """Write a key into a file."""
        path = self.directory / name
        path.write_text(key)
        path.chmod(0o600)
        return path

    def port(self) -> int:
        """A free port."""
        self._ports.append(free_port())
        return self._ports[-1]

    @property
    def seed(self) -> str:
        """Where agents join."""
        return f"127.0.0.1:{self._ports[0]}"

    def settings(self, **changes: Any) -> SerfSettings:
        """Settings of one more agent; the first one joins nobody. `key_file`: another key."""
        key_file = changes.pop("key_file", self.key_file)
        port = changes.pop("port", None) or self.port()
        key = Secret(f"file:{key_file}", field="serf.encrypt_key", check=encryption_key)
        usual: dict[str, Any] = {
            "enabled": True,
            "bind": "127.0.0.1",
            "port": port,
            "ports": 1,
            "join": (self.seed,) if len(self._ports) > 1 else (),
            "encrypt_key": key,
        }
        return SerfSettings(**usual | changes)

    def agent(
        self,
        name: str = "w@host",
        incarnation: str = "1",
        *,
        role: Role = Role.WORKER,
        settings: SerfSettings | None = None,
        **attributes: Any,
    ) -> SerfAgent:
        """An agent that has yet to be started."""
        told = WorkerAttributes(role=role, name=name, incarnation=incarnation, **attributes)
        agent = SerfAgent(settings or self.settings(), self.base, told)
        self.agents.append(agent)
        return agent

    def started(self, name: str = "w@host", incarnation: str = "1", **more: Any) -> SerfAgent:
        """An agent that runs; `RuntimeError` with its trouble if it does not."""
        agent = self.agent(name, incarnation, **more)
        if not agent.start(20.0):
            raise RuntimeError(agent.trouble)
        return agent

    def close(self) -> None:
        """End them all, as a crash would."""
        for agent in self.agents:
            agent.stop()
        for port in self._ports:
            release_port(port)


def members_of(agent: SerfAgent) -> dict[str, Member]:
    """What an agent knows, by name."""
    with agent.connect() as gossip:
        return {member.name: member for member in gossip.members()}


def wait_until_joined(agent: SerfAgent, count: int) -> None:
    """Wait until an agent knows so many, itself included."""
    wait_for(lambda: len(members_of(agent)) >= count, 10.0, f"{count} agents")
