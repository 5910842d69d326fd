"""A PostgreSQL of one's own: private directory and port, durable as a real one."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import psycopg
from psycopg import sql

from services.ports import free_port, release_port
from services.processes import Process, alive, children, wait_for
from services.service import Service

_PORT_TRIES: Final = 3
_USER: Final = "wlm"


def binaries_dir() -> Path | None:
    """Where the newest installed PostgreSQL server is, None if there is none."""
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/postgres"),
        key=lambda path: int(path.parts[-3]) if path.parts[-3].isdigit() else 0,
    )
    if found:
        return found[-1].parent
    on_path = shutil.which("postgres")
    return Path(on_path).resolve().parent if on_path else None


class PrivatePostgreSQL(Service):
    """One server, fsync on; `start` before use, `close` at the end.

    PostgreSQL refuses to run as root, so root starts it as the user ``postgres``: then
    `directory` must lie where that user can pass through. No password; loopback only, unless it
    has a `host` of its own, an address that the words `inside`, in front of its command, lead to.
    """

    def __init__(
        self,
        directory: Path,
        *,
        max_connections: int = 200,
        host: str = "127.0.0.1",
        inside: Sequence[str] = (),
    ) -> None:
        self.host = host
        self._inside = list(inside)
        self.directory = directory
        self.max_connections = max_connections
        self._user = "postgres" if os.geteuid() == 0 else None
        self._port: int | None = None
        self._process: Process | None = None

    @staticmethod
    def available() -> bool:
        """True if a PostgreSQL server is installed and may be run."""
        if binaries_dir() is None:
            return False
        return os.geteuid() != 0 or any(user.pw_name == "postgres" for user in pwd.getpwall())

    @property
    def port(self) -> int:
        """The TCP port, the same after every restart."""
        if self._port is None:
            raise RuntimeError("this PostgreSQL was not started")
        return self._port

    @property
    def process(self) -> Process:
        """The running server (its postmaster)."""
        if self._process is None:
            raise RuntimeError("this PostgreSQL was not started")
        return self._process

    @property
    def running(self) -> bool:
        """True while the server's process lives."""
        return self._process is not None and self._process.running

    def url(self, database: str = "postgres") -> str:
        """SQLAlchemy URL of a database."""
        return f"postgresql+psycopg://{_USER}@{self.host}:{self.port}/{database}"

    def start(self, timeout: float = 60.0) -> None:
        """Start it and wait until it answers. Data of an earlier run are kept."""
        if not (self.directory / "data" / "PG_VERSION").exists():
            self._initdb()
        for tries_left in reversed(range(_PORT_TRIES)):
            fresh = self._port is None
            self._port = free_port() if self._port is None else self._port
            try:
                return self._start(timeout)
            except RuntimeError:
                taken = fresh and "could not bind" in self.process.output
                if not taken or not tries_left:
                    raise
                release_port(self._port)
                self._port = None
        return None

    def stop(self, timeout: float = 30.0) -> None:
        """Stop it properly (fast shutdown: open connections are closed); data are kept."""
        self.process.stop(timeout, signal.SIGINT)

    def kill9(self) -> None:
        """KILL the server as it stands; data are kept as the disk has them."""
        # They notice by themselves, and the next start must not meet them.
        family = children(self.process.pid)
        self.process.kill9()
        wait_for(lambda: not any(alive(pid) for pid in family), 10, "PostgreSQL's children end")

    def restart(self) -> None:
        """Stop it if it runs, start it again on the same port with the same data."""
        if self.running:
            self.stop()
        self.start()

    def close(self) -> None:
        """End it for good and remove its data."""
        if self._process is not None:
            # Immediate shutdown: no grace, but it gives its shared memory back.
            self._process.stop(5.0, signal.SIGQUIT)
        if self._port is not None:
            release_port(self._port)
        shutil.rmtree(self.directory, ignore_errors=True)

    def new_database(self, template: str = "template1") -> str:
        """SQLAlchemy URL of a fresh database, a copy of `template`."""
        name = f"t{uuid.uuid4().hex[:12]}"
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        self._execute(statement.format(sql.Identifier(name), sql.Identifier(template)))
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Remove a database made by `new_database`, also while somebody is connected to it."""
        name = sql.Identifier(url.rpartition("/")[2])
        self._execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(name))

    def _execute(self, statement: sql.Composed) -> None:
        with self._connect() as connection:
            connection.execute(statement)

    def _connect(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(
            host=self.host,
            port=self.port,
            user=_USER,
            dbname="postgres",
            connect_timeout=5,
            autocommit=True,
        )

    def _binary(self, name: str) -> Path:
        place = binaries_dir()
        if place is None:
            raise RuntimeError("PostgreSQL is not installed: run scripts/setup")
        return place / name

    def _initdb(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        account = pwd.getpwnam(self._user) if self._user else None
        if account:
            os.chown(self.directory, account.pw_uid, account.pw_gid)
        options = ["--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync", "-U", _USER]
        done = subprocess.run(
            [str(self._binary("initdb")), "-D", str(self.directory / "data"), *options],
            capture_output=True,
            text=True,
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            user=self._user,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
            check=False,
        )
        if self.host != "127.0.0.1":
            with (self.directory / "data/pg_hba.conf").open("a") as file:
                file.write("host all all samenet trust\n")
        if done.returncode:
            raise RuntimeError(f"initdb in {self.directory}: {done.stdout}{done.stderr}")

    def _start(self, timeout: float) -> None:
        settings = {
            "listen_addresses": self.host,
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": str(self.max_connections),
            "fsync": "on",
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        self._process = Process(
            [*self._inside, self._binary("postgres"), "-D", self.directory / "data", *options],
            log=self.directory / "server.log",
            cwd=self.directory,
            user=None if self._inside else self._user,
            death_signal=signal.SIGQUIT,
        )
        self._process.wait_for(self._answers, timeout, "PostgreSQL answers")

    def _answers(self) -> bool:
        try:
            self._connect().close()
        except psycopg.OperationalError:
            return False
        return True
