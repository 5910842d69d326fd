"""A private S3 service: moto in a process of its own, with faults to switch on."""

from __future__ import annotations

import importlib.util
import json
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

import requests

from services.ports import free_port, release_port
from services.processes import Process
from services.service import Service

_MAIN: Final = Path(__file__).with_name("s3_main.py")
BUCKET: Final = "tests"


class PrivateS3(Service):
    """One service on loopback, with TLS if it is given a certificate; all is in its memory."""

    def __init__(self, log: Path, *, cert_file: Path | None = None) -> None:
        self.cert_file = cert_file
        self.host = "127.0.0.1"
        self.log = log
        self.port = free_port()
        self._process: Process | None = None

    @staticmethod
    def available() -> bool:
        """True if the library is installed."""
        return all(importlib.util.find_spec(name) for name in ("moto", "flask", "boto3"))

    @property
    def endpoint(self) -> str:
        return f"http{'s' if self.cert_file else ''}://{self.host}:{self.port}"

    @property
    def process(self) -> Process:
        assert self._process is not None
        return self._process

    def start(self) -> None:
        cert_file = str(self.cert_file or "")
        given = {"host": self.host, "port": self.port, "cert_file": cert_file}
        self._process = Process([sys.executable, _MAIN, json.dumps(given)], log=self.log)
        self._process.wait_for(self._answers, 60.0, "the S3 service answers")

    def close(self) -> None:
        if self._process is not None:
            self._process.stop()
        release_port(self.port)

    def faults(self, *rules: Mapping[str, Any]) -> None:
        """Set the rules (see `s3_main`) and forget what was asked."""
        self._own("PUT", "faults", rules)

    def asked(self) -> list[dict[str, str]]:
        """What was asked since then: the line and the headers, in small letters."""
        found: list[dict[str, str]] = self._own("GET", "faults")
        return found

    def uploads(self, key: str) -> list[bytes]:
        """Return the bytes of each multipart upload that is not complete."""
        query = urlencode({"bucket": BUCKET, "key": key})
        return [bytes.fromhex(text) for text in self._own("GET", f"parts?{query}")]

    def _own(self, method: str, name: str, body: Any = None) -> Any:
        url = f"{self.endpoint}/_wlm/{name}"
        with requests.Session() as session:
            session.trust_env = False
            session.verify = False if self.cert_file is None else str(self.cert_file)
            answer = session.request(method, url, json=body, timeout=20)
        answer.raise_for_status()
        return answer.json()

    def _answers(self) -> bool:
        try:
            with socket.create_connection((self.host, self.port), timeout=5.0):
                return True
        except OSError:
            return False
