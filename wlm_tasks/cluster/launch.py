"""What a Serf agent is started with: a private directory, its configuration, free ports.

Keys stand in a file that only its owner can read, never among arguments, variables or in a log.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from wlm_tasks.cluster.tags import Role
from wlm_tasks.config import SerfSettings, Settings
from wlm_tasks.errors import ServiceError

CONFIG: Final = "agent.json"
LOG: Final = "agent.log"
SPOOL: Final = "events.spool"  #: of all agents of the directory
_LOCK: Final = "lock"
_SNAPSHOT: Final = "snapshot"
#: of a log, which is then kept as one older one
_LOG_LIMIT: Final = 1024 * 1024
_WORDS_READ: Final = 8192
_NAME_LIMIT: Final = 128
_HANDLED: Final = "member-join,member-leave,member-failed,member-update,member-reap"
#: The child asks to be killed when its parent ends, which must be asked from within, and makes
#: sure that this was not before; then it becomes the agent. A program of its own, because Python
#: must not run between fork and exec in a process with threads.
_TIED: Final = """
import ctypes, os, sys
ctypes.CDLL(None, use_errno=True).prctl(1, 9, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One start of an agent."""

    node: str
    port: int
    rpc_port: int
    rpc_key: str = field(repr=False)


def node_name(name: str, incarnation: str) -> str:
    """Return a name for a node that no other one has ever had.

    Serf refuses a name that comes from another address than the one it knows, so each life of a
    process has its own.
    """
    tail = f".{incarnation.replace('_', '-')}"
    return re.sub(r"[^A-Za-z0-9.-]", "-", name)[: _NAME_LIMIT - len(tail)] + tail


def agents_directory(settings: Settings) -> Path:
    """Return where the agents of this host have their directories."""
    return settings.data_dir / "serf"


def find_binary(settings: SerfSettings) -> str:
    """Return the path of the program; raises `ServiceError` if there is none."""
    wanted = settings.binary or "serf"
    found = shutil.which(wanted)
    if found is None:
        mend = "correct serf.binary" if settings.binary else "apt-get install serf"
        raise ServiceError(f"Serf: there is no program {wanted} here; {mend}")
    return found


def free_ports(settings: SerfSettings, wanted: int | None = None) -> Iterator[int]:
    """Return the free ports agents may take, `wanted` first; another process may be faster.

    Raises `ServiceError` if the address is not this host's.
    """
    ports = range(settings.port, settings.port + settings.ports)
    for port in (*([wanted] if wanted in ports else []), *ports):
        if _is_free(settings.bind, port):
            yield port


def free_rpc_port() -> int:
    """Return a free port of loopback; another process may be faster."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _is_free(address: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with (
            socket.socket(family, socket.SOCK_STREAM) as tcp,
            socket.socket(family, socket.SOCK_DGRAM) as udp,
        ):
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the agent does
            tcp.bind((address, port))
            tcp.listen()
            udp.bind((address, port))
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise ServiceError(f"Serf: serf.bind {address} is no address of this host") from None
        return False
    return True


class AgentDirectory:
    """The files of one agent, below a directory that agents of a host and user share.

    The lock is held as long as this process lives; directories whose locks are free were left by
    processes that are gone.
    """

    def __init__(self, base: Path, node: str) -> None:
        """Make it; raises `OSError`."""
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = base / node
        turn = _locked(base, wait=True)  # a new one without its lock yet must not look left
        try:
            self.path.mkdir(mode=0o700, exist_ok=True)
            self._lock = _locked(self.path)
            self._inherit(base)
        finally:
            os.close(turn)

    @property
    def log(self) -> Path:
        """What the agent writes."""
        return self.path / LOG

    def write_config(self, settings: SerfSettings, launch: Launch, tags: Mapping[str, str]) -> None:
        """Write the agent's configuration; raises `ConfigError` for a key that is none."""
        config = agent_config(settings, launch, tags, self.path)
        new = self.path / f"{CONFIG}.new"
        new.unlink(missing_ok=True)
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor
            json.dump(config, file)
        new.rename(self.path / CONFIG)

    def spawn(self, binary: str) -> subprocess.Popen[bytes]:
        """Start the agent, which dies with the thread that calls this; raises `OSError`."""
        words = [sys.executable, "-I", "-S", "-c", _TIED, str(os.getpid())]
        words += [binary, "agent", f"-config-file={self.path / CONFIG}"]
        env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "GOMAXPROCS": "1",
            "WLM_SERF_SPOOL": str(self.path.parent / SPOOL),
        }
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        log = os.open(self.log, flags, 0o600)
        try:
            return subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.path,
                env=env,
                start_new_session=True,  # Ctrl-C is the parent's
            )
        finally:
            os.close(log)

    def bound_log(self) -> None:
        """Keep the log small: what there is becomes the older log, in place of the last one."""
        with contextlib.suppress(OSError):  # the next time will do
            if self.log.stat().st_size > _LOG_LIMIT:
                shutil.copyfile(self.log, self.path / f"{LOG}.1")
                os.truncate(self.log, 0)  # the agent goes on at its end, wherever that is

    def last_words(self) -> str:
        """Return what the agent said last, in one line."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, self.log.stat().st_size - _WORDS_READ))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        said = [line for line in lines if line.strip()]
        return said[-1].removeprefix("==>").strip() if said else ""

    def release(self) -> None:
        """Leave what the next agent of this host takes over, and no keys."""
        (self.path / CONFIG).unlink(missing_ok=True)
        os.close(self._lock)

    def _inherit(self, base: Path) -> None:
        """Take over the newest snapshot of processes that are gone, and remove their files."""
        newest = 0.0
        for other in base.iterdir():
            if other == self.path or not other.is_dir():
                continue
            try:
                lock = _locked(other)
            except OSError:
                continue
            snapshot = other / _SNAPSHOT
            with contextlib.suppress(OSError):  # it may have none
                if (changed := snapshot.stat().st_mtime) > newest:
                    snapshot.replace(self.path / _SNAPSHOT)
                    newest = changed
            shutil.rmtree(other, ignore_errors=True)
            os.close(lock)


def _locked(directory: Path, *, wait: bool = False) -> int:
    """Return the lock on a directory; raises `OSError` if somebody has it, unless we wait."""
    fd = os.open(directory / _LOCK, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(fd)
        raise
    return fd


def running_agents(base: Path) -> list[Launch]:
    """Return the agents below a directory whose processes live, as they were started."""
    found = []
    for config in sorted(base.glob(f"*/{CONFIG}")):
        try:
            os.close(_locked(config.parent))
        except BlockingIOError:
            read = json.loads(config.read_text(encoding="utf-8"))
            port, rpc_port = (int(read[key].rpartition(":")[2]) for key in ("bind", "rpc_addr"))
            found.append(
                Launch(
                    node=read["node_name"], port=port, rpc_port=rpc_port, rpc_key=read["rpc_auth"]
                )
            )
    return found


def new_rpc_key() -> str:
    """Return a key for one start of an agent."""
    return secrets.token_hex(16)


def agent_config(
    settings: SerfSettings, launch: Launch, tags: Mapping[str, str], directory: Path
) -> dict[str, object]:
    """Return the configuration of an agent; raises `ConfigError` for a key that is none."""
    config: dict[str, object] = {
        "node_name": launch.node,
        "bind": _joined(settings.bind, launch.port),
        "rpc_addr": f"127.0.0.1:{launch.rpc_port}",
        "rpc_auth": launch.rpc_key,
        "tags": dict(tags),
        "profile": "lan",
        # otherwise a planned stop looks like a crash
        "leave_on_terminate": True,
        "rejoin_after_leave": True,
        "snapshot_path": str(directory / _SNAPSHOT),
        # 30 s by default: so long a worker would be missed after its network is mended
        "reconnect_interval": "5s",
        # long gone names are forgotten after this time instead of a day
        "reconnect_timeout": "1h",
        "retry_join": list(settings.join),
        "retry_interval": "5s",
        "disable_coordinates": True,
        "log_level": "info",
    }
    if settings.encrypt_key is not None:
        config["encrypt_key"] = settings.encrypt_key.reveal()
    if settings.advertise is not None:
        # without a port it would be the usual one, not the one that was free
        config["advertise"] = _joined(settings.advertise, launch.port)
    # a worker's would tell the same once more, at the cost of a process for each event
    if settings.handler is not None and tags.get("role") != Role.WORKER:
        config["event_handlers"] = [f"{_HANDLED}={shlex.quote(settings.handler)}"]
    return config


def _joined(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
