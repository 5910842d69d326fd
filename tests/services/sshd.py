"""An sshd of one's own: private port and keys, an empty home, key login only."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Final

from services.guardian import MARKER
from services.ports import free_port, release_port
from services.processes import Process, children
from services.service import Service

_SSHD: Final = Path("/usr/sbin/sshd")
_PORT_TRIES: Final = 3


class PrivateSshd(Service):
    """One server on loopback; `start` before use, `close` at the end.

    It lets the user who runs the tests log in with the key of `key_file`; MaxSessions is
    OpenSSH's default, 10, unless it is given.
    """

    def __init__(
        self,
        directory: Path,
        *,
        max_sessions: int = 10,
        force: str = "",
        chroot: Path | None = None,
    ) -> None:
        """`force` is what is run instead of any command, ``internal-sftp`` for no more than that.

        A `chroot` is a directory that only root can write to, and so are those above it.
        """
        self.directory = directory
        self.home = directory / "home"  #: HOME of what is run by it
        self.user = pwd.getpwuid(os.getuid()).pw_name
        self.host = "127.0.0.1"
        self._max_sessions = max_sessions
        self._force = force
        self._chroot = chroot
        self._port: int | None = None
        self._process: Process | None = None

    @staticmethod
    def available() -> bool:
        """True if an SSH server is installed."""
        return _SSHD.exists() and shutil.which("ssh-keygen") is not None

    @property
    def port(self) -> int:
        """The TCP port, the same after every restart."""
        if self._port is None:
            raise RuntimeError("this sshd was not started")
        return self._port

    @property
    def process(self) -> Process:
        """The running server."""
        if self._process is None:
            raise RuntimeError("this sshd was not started")
        return self._process

    @property
    def key_file(self) -> Path:
        """The client's private key."""
        return self.directory / "client_key"

    @property
    def known_hosts(self) -> Path:
        """A list of host keys that has this server's."""
        return self.directory / "known_hosts"

    @property
    def options(self) -> dict[str, str | int]:
        """The settings of a site on this server."""
        return {
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "key_file": str(self.key_file),
            "known_hosts": str(self.known_hosts),
        }

    def new_key(self, name: str, *, passphrase: str = "") -> Path:
        """Make a key that is let in nowhere."""
        path = self.directory / name
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", str(path)]
        subprocess.run(words, check=True, stdin=subprocess.DEVNULL)
        return path

    def lets_in(self, other: PrivateSshd) -> None:
        """Let what runs on the other server log in here by itself, with a key of its own.

        Its ``ssh`` has a configuration of its own, `client_config`; the one of the user who runs
        the tests is left alone.
        """
        key = other.directory / "own_key"
        if not key.exists():
            other.new_key(key.name)
        with (self.directory / "authorized_keys").open("a") as keys:
            keys.write(key.with_suffix(".pub").read_text())
        other.own_known_hosts.write_text(self.known_hosts.read_text())
        other.client_config.write_text(
            f"IdentityFile {key}\nIdentitiesOnly yes\nUserKnownHostsFile {other.own_known_hosts}\n"
        )
        program = other.home / "bin" / "ssh"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {other.client_config} "$@"\n')
        program.chmod(0o755)
        (other.home / ".bashrc").write_text(f'PATH="{program.parent}:$PATH"\n')

    @property
    def client_config(self) -> Path:
        """The configuration of the ``ssh`` of what runs on it."""
        return self.directory / "own_ssh_config"

    @property
    def own_known_hosts(self) -> Path:
        """The hosts that it knows."""
        return self.directory / "own_known_hosts"

    def start(self, timeout: float = 20.0) -> None:
        """Start it and wait until it answers."""
        if not self.key_file.exists():
            self._make_keys()
        for tries_left in reversed(range(_PORT_TRIES)):
            fresh = self._port is None
            self._port = free_port() if self._port is None else self._port
            self._configure()
            try:
                return self._start(timeout)
            except RuntimeError:
                if not fresh or not tries_left or "Bind to port" not in self.process.output:
                    raise
                release_port(self._port)
                self._port = None
        return None

    def restart(self) -> None:
        """End it with all its connections and start it again."""
        self.stop()
        self.start()

    def stop(self) -> None:
        """End it with all its connections; nobody listens then."""
        connected = self.connections()
        self.process.stop()
        _kill(connected)

    def cut(self) -> None:
        """End all connections as a broken network would; what was started by them goes on."""
        _kill(self.connections())

    def connections(self) -> list[int]:
        """Pids of the server's processes, one for each connection."""
        return children(self.process.pid)

    def logins(self) -> int:
        """How often somebody has logged in since the last start."""
        return self.process.output.count("Accepted publickey")

    def close(self) -> None:
        """End it for good and remove its files."""
        if self._process is not None:
            self.stop()
        if self._port is not None:
            release_port(self._port)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _make_keys(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        self.home.mkdir(exist_ok=True)
        self.new_key("host_key")
        public = self.new_key("client_key").with_suffix(".pub").read_text()
        (self.directory / "authorized_keys").write_text(public)
        if os.geteuid() == 0:  # where it locks itself in before a login
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)

    def _configure(self) -> None:
        here = self.directory
        key = " ".join((here / "host_key.pub").read_text().split()[:2])
        self.known_hosts.write_text(f"[{self.host}]:{self.port} {key}\n")
        marker = f" {MARKER}={os.environ[MARKER]}" if MARKER in os.environ else ""
        (here / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress {self.host}\nHostKey {here}/host_key\n"
            f"PidFile none\nAuthorizedKeysFile {here}/authorized_keys\nStrictModes no\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\n"
            "PermitRootLogin prohibit-password\nUseDNS no\nSubsystem sftp internal-sftp\n"
            f"SetEnv HOME={self.home}{marker}\nMaxSessions {self._max_sessions}\n"
            "MaxStartups 100:30:200\nLogLevel INFO\n"
            + (f"ForceCommand {self._force}\n" if self._force else "")
            + (f"ChrootDirectory {self._chroot}\n" if self._chroot else "")
        )

    def _start(self, timeout: float) -> None:
        self._process = Process(
            [_SSHD, "-D", "-e", "-f", self.directory / "sshd_config"],
            log=self.directory / "sshd.log",
            cwd=self.directory,
        )
        self._process.wait_for(self._answers, timeout, "sshd answers")

    def _answers(self) -> bool:
        try:
            with socket.create_connection((self.host, self.port), timeout=5.0) as probe:
                return probe.recv(4) == b"SSH-"
        except OSError:
            return False


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
