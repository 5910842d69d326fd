"""A private Aurora scheduler: the stand-in of `services.aurora_peer` as a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any, Final

import requests

from services.aurora_peer.faults import Faults
from services.ports import free_port, listening, release_port
from services.processes import Process
from services.service import Service

_TESTS: Final = Path(__file__).parents[1]


class PrivateAurora(Service):
    """One scheduler; `start` before use, `close` at the end. Its state is lost with its process."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._port = 0
        self._process: Process | None = None

    @staticmethod
    def available() -> bool:
        """True if the Thrift compiler and its Python package are installed."""
        return shutil.which("thrift") is not None and importlib.util.find_spec("thrift") is not None

    @property
    def url(self) -> str:
        """Root of the scheduler, the same after every restart."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def host(self) -> str:
        """``HOST:PORT``."""
        return f"127.0.0.1:{self._port}"

    @property
    def process(self) -> Process:
        """The running scheduler."""
        if self._process is None:
            raise RuntimeError("this Aurora was not started")
        return self._process

    def start(self, timeout: float = 60.0) -> None:
        """Start it and wait until it listens."""
        self._port = self._port or free_port()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._process = Process(
            [sys.executable, "-m", "services.aurora_peer", str(self._port), self.directory],
            log=self.directory / "aurora.log",
            env=os.environ | {"PYTHONPATH": str(_TESTS)},
        )
        self.process.wait_for(lambda: listening(self._port), timeout, "the scheduler's port")

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.stop()
            release_port(self._port)

    def set(self, **faults: Any) -> None:
        """Switch faults, see `services.aurora_peer.faults`."""
        self._control(json.dumps(faults).encode())

    def seen(self) -> dict[str, Any]:
        """``calls`` by method, the last ``requests``, how many tasks are ``active``, ``faults``."""
        found: dict[str, Any] = json.loads(self._control(None))
        return found

    def calls(self, method: str) -> int:
        """How often a method was called."""
        return int(self.seen()["calls"].get(method, 0))

    def reset(self) -> None:
        """Switch every fault off."""
        self.set(**vars(Faults()))
        self.others()

    def others(self, *keys: str, role: str = "gateway") -> None:
        """Have just these tasks of others: ``ENVIRONMENT/NAME STATUS``, each stays as it is."""
        tasks = []
        for key in keys:
            job, _, status = key.partition(" ")
            environment, _, name = job.partition("/")
            tasks.append({"role": role, "environment": environment, "name": name, "status": status})
        self._control(json.dumps(tasks).encode(), "/control/others")

    def _control(self, data: bytes | None, path: str = "/control") -> bytes:
        method = "GET" if data is None else "POST"
        answer = requests.request(method, f"{self.url}{path}", data=data, timeout=10)
        answer.raise_for_status()
        return answer.content
