"""Slurm's accounting: a slurmdbd, and a MariaDB on a unix socket that keeps its records."""

from __future__ import annotations

import getpass
import os
import shutil
from pathlib import Path
from typing import Final

from services.ports import free_port, release_port
from services.processes import Process, output_of
from services.service import Service

_SBIN: Final = Path("/usr/sbin")
_PROGRAMS: Final = tuple(_SBIN / name for name in ("mariadbd", "slurmdbd"))


class PrivateAccounting(Service):
    """Both, for one `services.slurm.PrivateSlurm`, whose munge they use."""

    def __init__(self, directory: Path, munge_socket: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self._munge_socket = munge_socket
        self._socket = directory / "mariadb.socket"
        self._mariadb: Process | None = None
        self._slurmdbd: Process | None = None

    @staticmethod
    def available() -> bool:
        """True if both are installed."""
        return all(program.exists() for program in _PROGRAMS)

    @property
    def settings(self) -> dict[str, object]:
        """Lines of slurm.conf that let a controller keep its records here."""
        return {
            "AccountingStorageType": "accounting_storage/slurmdbd",
            "AccountingStorageHost": "127.0.0.1",
            "AccountingStoragePort": self.port,
            "AccountingStoragePass": self._munge_socket,
            "AccountingStorageEnforce": "associations,limits,qos",
        }

    def start(self) -> None:
        """Start both and wait until slurmdbd listens."""
        data = self.directory / "mariadb"
        self.directory.mkdir(parents=True)
        user = getpass.getuser()
        output_of(
            "mariadb-install-db",
            "--no-defaults",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            f"--user={user}",
            f"--datadir={data}",
        )
        self._mariadb = Process(
            [
                _SBIN / "mariadbd",
                "--no-defaults",
                f"--user={user}",
                f"--datadir={data}",
                f"--socket={self._socket}",
                f"--pid-file={self.directory / 'mariadb.pid'}",
                "--skip-networking",
                "--innodb-lock-wait-timeout=900",
                "--innodb-flush-log-at-trx-commit=0",
            ],
            log=self.directory / "mariadb.out",
            cwd=self.directory,
        )
        self._mariadb.wait_for(self._answers, 60.0, "MariaDB answers")
        self._sql("CREATE DATABASE slurm_acct_db; CREATE USER slurm@localhost IDENTIFIED BY 'x';")
        self._sql("GRANT ALL ON slurm_acct_db.* TO slurm@localhost")
        self._configure()
        self.start_slurmdbd()

    def start_slurmdbd(self) -> None:
        """Start slurmdbd, for the first time or again."""
        self._slurmdbd = Process(
            [_SBIN / "slurmdbd", "-D"],
            log=self.directory / "slurmdbd.out",
            env={
                **os.environ,
                "SLURM_CONF": str(self.directory / "slurm.conf"),
                "MYSQL_UNIX_PORT": str(self._socket),
            },
            cwd=self.directory,
        )
        self._slurmdbd.wait_for(self._listens, 60.0, "slurmdbd listens")

    def stop_slurmdbd(self) -> None:
        """Stop slurmdbd; what the controller has to tell waits for it there."""
        if self._slurmdbd is not None:
            self._slurmdbd.stop()

    def close(self) -> None:
        """End both for good and remove the records."""
        for process in (self._slurmdbd, self._mariadb):
            if process is not None:
                process.stop(0.0)
        release_port(self.port)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _configure(self) -> None:
        # it looks for its settings beside those of Slurm
        (self.directory / "slurm.conf").touch()
        conf = self.directory / "slurmdbd.conf"
        conf.touch(mode=0o600)
        settings = {
            "AuthType": "auth/munge",
            "AuthInfo": f"socket={self._munge_socket}",
            "DbdHost": "localhost",
            "DbdAddr": "127.0.0.1",
            "DbdPort": self.port,
            "SlurmUser": getpass.getuser(),
            "LogFile": self.directory / "slurmdbd.log",
            "PidFile": self.directory / "slurmdbd.pid",
            "CommitDelay": 0,
            "StorageType": "accounting_storage/mysql",
            "StorageHost": "localhost",
            "StorageUser": "slurm",
            "StoragePass": "x",
            "StorageLoc": "slurm_acct_db",
        }
        conf.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))

    def _listens(self) -> bool:
        listening = Path("/proc/net/tcp").read_text()
        return f":{self.port:04X} 00000000:0000 0A" in listening

    def _answers(self) -> bool:
        try:
            self._sql("SELECT 1")
        except RuntimeError:
            return False
        return True

    def _sql(self, text: str) -> None:
        output_of("mariadb", "--no-defaults", f"--socket={self._socket}", "--user=root", "-e", text)
