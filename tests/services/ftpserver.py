"""A private FTP server, with TLS if it is given a certificate."""

from __future__ import annotations

import importlib.util
import json
import socket
import sys
from pathlib import Path
from typing import Any, Final

from services.ports import free_port, release_port
from services.processes import Process
from services.service import Service

_MAIN: Final = Path(__file__).with_name("ftp_main.py")


class PrivateFtp(Service):
    """One server on loopback for the files below `directory`.

    Without a password it lets anybody in. `faults`, for the next start: ``answers`` (by command),
    ``cut_after`` and ``stall_after`` (bytes it sends), ``address`` (which it names for data).
    """

    def __init__(
        self, directory: Path, log: Path, *, password: str = "", cert_file: Path | None = None
    ) -> None:
        self.directory = directory
        self.host = "127.0.0.1"
        self.user = "me"
        self.faults: dict[str, Any] = {}
        self.password = password
        self.cert_file = cert_file
        self.log = log
        self.port = free_port()
        self._process: Process | None = None

    @staticmethod
    def available() -> bool:
        """True if the library is installed."""
        return importlib.util.find_spec("pyftpdlib") is not None

    @property
    def base(self) -> str:
        """The URL up to the path's slash."""
        return f"ftp{'s' if self.cert_file else ''}://{self.host}:{self.port}"

    @property
    def process(self) -> Process:
        assert self._process is not None
        return self._process

    def start(self) -> None:
        given = {
            "host": self.host,
            "port": self.port,
            "directory": str(self.directory),
            "user": self.user,
            "password": self.password,
            "cert_file": str(self.cert_file) if self.cert_file else "",
            "faults": self.faults,
        }
        self._process = Process([sys.executable, _MAIN, json.dumps(given)], log=self.log)
        self._process.wait_for(self._answers, 20.0, "the FTP server answers")

    def restart(self, **faults: Any) -> None:
        """End it with all its connections and start it again, with these faults."""
        self.faults = faults
        self.process.stop()
        self.start()

    def close(self) -> None:
        if self._process is not None:
            self._process.stop()
        release_port(self.port)

    def _answers(self) -> bool:
        try:
            with socket.create_connection((self.host, self.port), timeout=5.0) as probe:
                return probe.recv(4) == b"220 "
        except OSError:
            return False
