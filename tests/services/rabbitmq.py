"""A RabbitMQ of one's own: private directory, node name, ports, cookie and epmd."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from kombu import Connection

from services.ports import free_port, listening, release_port
from services.processes import Process
from services.service import Service

# The scripts under /usr/sbin switch to the system's user and its directories; these do not.
_SCRIPTS: Final = (
    Path("/usr/lib/rabbitmq/bin"),
    Path("/opt/homebrew/opt/rabbitmq/sbin"),
    Path("/usr/local/opt/rabbitmq/sbin"),
)
_PORT_TRIES: Final = 3
_VHOST_BATCH: Final = 8
_LOOPBACK_ONLY: Final = "-kernel inet_dist_use_interface {127,0,0,1}"


def scripts_dir() -> Path | None:
    """Where RabbitMQ's own scripts are, None if it is not installed."""
    for place in _SCRIPTS:
        if (place / "rabbitmq-server").exists() and shutil.which("erl"):
            return place
    return None


class PrivateRabbitMQ(Service):
    """One broker, as root or as an ordinary user; `start` before use, `close` at the end.

    `consumer_timeout_s` and `channel_tick_s` set how long a message may stay unacknowledged
    and how often that is looked at; `config` are further lines of rabbitmq.conf; `management`
    switches the HTTP API on (`management_url`; about 3 s more to start and 5 s to stop). `inside`
    are words in front of its commands, such as those of a network namespace, where `host` is an
    address.
    """

    def __init__(
        self,
        directory: Path,
        *,
        consumer_timeout_s: float | None = None,
        channel_tick_s: float | None = None,
        management: bool = False,
        config: Mapping[str, str] | None = None,
        host: str = "127.0.0.1",
        inside: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self.host = host
        self._inside = list(inside)
        self.node = f"wlm-{uuid.uuid4().hex[:12]}@localhost"
        self.management = management
        self._config = dict(config or {})
        if consumer_timeout_s is not None:
            self._config["consumer_timeout"] = str(round(consumer_timeout_s * 1000))
        self._channel_tick_s = channel_tick_s
        self._ports: dict[str, int] = {}
        self._process: Process | None = None
        self._epmd: Process | None = None
        self._spare_vhosts: list[str] = []

    @staticmethod
    def available() -> bool:
        """True if RabbitMQ is installed."""
        return scripts_dir() is not None

    @property
    def port(self) -> int:
        """The AMQP port, the same after every restart."""
        return self._ports["amqp"]

    @property
    def url(self) -> str:
        """AMQP URL of the virtual host ``/``."""
        return self.vhost_url("/")

    @property
    def management_url(self) -> str:
        """Root of the HTTP API, user guest; only with `management`."""
        return f"http://127.0.0.1:{self._ports['management']}"

    @property
    def process(self) -> Process:
        """The running server."""
        if self._process is None:
            raise RuntimeError("this RabbitMQ was not started")
        return self._process

    @property
    def running(self) -> bool:
        """True while the server's process lives."""
        return self._process is not None and self._process.running

    def vhost_url(self, vhost: str) -> str:
        """AMQP URL of a virtual host."""
        return f"amqp://guest:guest@{self.host}:{self.port}/{vhost.replace('/', '%2F')}"

    def start(self, timeout: float = 90.0) -> None:
        """Start it and wait until it answers AMQP. Data of an earlier run are kept."""
        for tries_left in reversed(range(_PORT_TRIES)):
            if not self._ports:
                self._prepare()
            try:
                self._start(timeout)
            except RuntimeError:
                first = not (self.directory / "started").exists()
                taken = first and "eaddrinuse" in self.process.output
                if not taken or not tries_left:
                    raise
                self._give_back()
            else:
                (self.directory / "started").touch()
                return

    def stop(self, timeout: float = 30.0) -> None:
        """Stop it properly, as an operator would; data are kept."""
        self.process.stop(timeout)

    def kill9(self) -> None:
        """KILL the server as it stands; data are kept as the disk has them."""
        self.process.kill9()

    def restart(self) -> None:
        """Stop it if it runs, start it again on the same ports with the same data."""
        if self.running:
            self.stop()
        self.start()

    def close(self) -> None:
        """End it for good, without grace, and remove its data."""
        for process in (self._process, self._epmd):
            if process is not None:
                process.kill_group()
        self._give_back()
        shutil.rmtree(self.directory, ignore_errors=True)

    def ctl(self, *args: str, timeout: float = 60.0) -> str:
        """Run rabbitmqctl (about 0.6 s); its output, `RuntimeError` with its words if it fails."""
        done = subprocess.run(
            [*self._inside, self._script("rabbitmqctl"), "--quiet", *args],
            env=self._environment(),
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"rabbitmqctl {' '.join(args)}: {done.stdout}{done.stderr}")
        return done.stdout

    def sync_declarations(self) -> None:
        """Make sure that everything declared so far survives `kill9`.

        A broker confirms a persistent message when it is on disk, but a durable queue a moment
        before it is: one declared just before a kill -9 can be gone, with its messages.
        """
        self.ctl("eval", "disk_log:sync(latest_log).")

    def new_vhost(self) -> str:
        """AMQP URL of a fresh virtual host: a broker as good as new for one test."""
        if not self._spare_vhosts:
            # rabbitmqctl takes far longer to start than to add one, so several at once
            names = [f"t{uuid.uuid4().hex[:8]}" for _ in range(_VHOST_BATCH)]
            self.ctl("eval", " ".join(_add_vhost(name) for name in names)[:-1] + ".")
            self._spare_vhosts = names
        return self.vhost_url(self._spare_vhosts.pop())

    def _prepare(self) -> None:
        names = ["amqp", "dist", "epmd", "ctl"] + (["management"] if self.management else [])
        self._ports = {name: free_port() for name in names}
        home = self.directory / "home"
        home.mkdir(parents=True, exist_ok=True)
        cookie = home / ".erlang.cookie"
        if not cookie.exists():
            cookie.write_text(uuid.uuid4().hex)
            cookie.chmod(0o400)
        self._write_config()

    def _write_config(self) -> None:
        lines = {
            "listeners.tcp.1": f"{self.host}:{self.port}",
            "log.console": "true",
            "log.file": "false",
            "disk_free_limit.absolute": "10MB",
        }
        plugins = ""
        if self.management:
            plugins = "rabbitmq_management"
            lines["management.tcp.ip"] = "127.0.0.1"
            lines["management.tcp.port"] = str(self._ports["management"])
        lines |= self._config
        text = "".join(f"{name} = {value}\n" for name, value in lines.items())
        (self.directory / "rabbitmq.conf").write_text(text)
        (self.directory / "enabled_plugins").write_text(f"[{plugins}].\n")
        (self.directory / "rabbitmq-env.conf").write_text("")
        # rabbitmq.conf has no name for this one
        tick = "" if self._channel_tick_s is None else round(self._channel_tick_s * 1000)
        setting = f"{{rabbit, [{{channel_tick_interval, {tick}}}]}}" if tick else ""
        (self.directory / "advanced.config").write_text(f"[{setting}].\n")

    def _environment(self) -> dict[str, str]:
        here = self.directory
        kept = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
        return kept | {
            "HOME": str(here / "home"),
            "LC_ALL": "C.UTF-8",
            "ERL_CRASH_DUMP": str(here / "erl_crash.dump"),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self._ports["epmd"]),
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_DIST_PORT": str(self._ports["dist"]),
            "RABBITMQ_CTL_DIST_PORT_MIN": str(self._ports["ctl"]),
            "RABBITMQ_CTL_DIST_PORT_MAX": str(self._ports["ctl"] + 50),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _LOOPBACK_ONLY,
            "RABBITMQ_CTL_ERL_ARGS": _LOOPBACK_ONLY,
            "RABBITMQ_CONF_ENV_FILE": str(here / "rabbitmq-env.conf"),
            "RABBITMQ_CONFIG_FILE": str(here / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(here / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(here / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(here / "mnesia"),
            "RABBITMQ_LOG_BASE": str(here / "log"),
            # makes the script exec the server, so that the child's pid is the server's own
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def _start(self, timeout: float) -> None:
        if self._epmd is None or not self._epmd.running:
            # Left alone, the server would start one as a daemon that outlives everything.
            self._epmd = Process(
                [*self._inside, "epmd", "-port", str(self._ports["epmd"]), "-address", "127.0.0.1"],
                log=self.directory / "epmd.log",
                env=self._environment(),
                cwd=self.directory,
            )
            if not self._inside:
                port = self._ports["epmd"]
                self._epmd.wait_for(lambda: listening(port), timeout, "epmd listens")
        self._process = Process(
            [*self._inside, self._script("rabbitmq-server")],
            log=self.directory / "server.log",
            env=self._environment(),
            cwd=self.directory,
        )
        try:
            self._process.wait_for(self._answers, timeout, "RabbitMQ answers")
        except RuntimeError:  # the reason is at the head of a long report
            lines = [line for line in self._process.output.splitlines() if "[error]" in line]
            raise RuntimeError("\n".join(["RabbitMQ did not start:", *lines[:20]])) from None

    def _answers(self) -> bool:
        if not listening(self.port, self.host):
            return False
        connection = Connection(self.url, connect_timeout=5.0)
        try:
            connection.connect()
        except connection.connection_errors:
            return False
        finally:
            connection.release()
        return True

    def _give_back(self) -> None:
        for port in self._ports.values():
            release_port(port)
        self._ports = {}
        if self._epmd is not None:
            self._epmd.kill_group()
            self._epmd = None

    @staticmethod
    def _script(name: str) -> Path:
        place = scripts_dir()
        if place is None:
            raise RuntimeError("RabbitMQ is not installed: run scripts/setup")
        return place / name


def _add_vhost(name: str) -> str:
    """Erlang that adds a virtual host in which guest may do everything."""
    return (
        f'rabbit_vhost:add(<<"{name}">>, <<"tests">>), '
        f'rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<"{name}">>, '
        '<<".*">>, <<".*">>, <<".*">>, <<"tests">>),'
    )
