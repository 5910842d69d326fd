"""A private SMTP server: a process that keeps mails in a directory, with faults to switch on."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from services.certificates import certificate
from services.ports import free_port, release_port
from services.processes import Process, wait_for
from services.service import Service

_MAIN: Final = Path(__file__).with_name("smtp_main.py")


@dataclass(frozen=True)
class Mail:
    """A mail that was received."""

    raw: bytes
    message: EmailMessage

    @property
    def id(self) -> str:
        return str(self["Message-ID"])

    @property
    def subject(self) -> str:
        return str(self["Subject"])

    @property
    def text(self) -> str:
        return str(self.message.get_content()).replace("\r\n", "\n")

    @property
    def recipients(self) -> list[str]:
        """Those of the envelope."""
        return self["X-Envelope-To"].split(",")

    @property
    def at(self) -> float:
        """When it was received, by this machine's clock."""
        return float(self["X-Envelope-Received-At"])

    def __getitem__(self, header: str) -> str:
        return str(self.message[header])


class PrivateSmtp(Service):
    """One server; `certified` makes it offer STARTTLS, `smtps` TLS from the first byte.

    With a `password` it demands the login of `user`. `inside` are words in front of its command,
    such as those of a network namespace, where `host` is an address and where it is reached.
    """

    user: Final = "gateway"

    def __init__(
        self,
        directory: Path,
        *,
        certified: bool = False,
        smtps: bool = False,
        password: str = "",
        host: str = "127.0.0.1",
        port: int | None = None,
        inside: Sequence[str] = (),
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.host = host
        self.smtps = smtps
        self.password = password
        self.cert_file = (
            certificate(directory / "cert", f"IP:{host},DNS:localhost")
            if certified or smtps
            else None
        )
        self.port = port or free_port()
        self._inside = list(inside)
        self._process: Process | None = None

    @property
    def url(self) -> str:
        """The URL for ``alerts.smtp_url``, with the login if one is demanded."""
        login = f"{self.user}:{quote(self.password, safe='')}@" if self.password else ""
        return f"smtp{'s' if self.smtps else ''}://{login}{self.host}:{self.port}"

    @property
    def process(self) -> Process:
        assert self._process is not None
        return self._process

    def start(self) -> None:
        argv = [*self._inside, sys.executable, str(_MAIN), str(self.directory)]
        argv += ["--host", self.host, "--port", str(self.port)]
        argv += ["--cert-file", str(self.cert_file)] if self.cert_file else []
        argv += ["--smtps"] if self.smtps else []
        argv += ["--user", self.user] if self.password else []
        self._process = Process(
            argv,
            log=self.directory / "server.log",
            env={**os.environ, "SMTP_PASSWORD": self.password},
        )
        self._process.wait_for_output("listens", 20.0)

    def stop(self) -> None:
        """End it with all its connections; mails stay. `start` starts it again."""
        if self._process is not None:
            self._process.kill_group()
            self._process = None

    def close(self) -> None:
        self.stop()
        release_port(self.port)

    def reset(self) -> None:
        """Start it if it does not run, forget all mails and faults."""
        if self._process is None or not self._process.running:
            self.start()
        self.fail()
        for file in (self.directory / "new").glob("*.eml"):
            file.unlink()

    def fail(self, **faults: Any) -> None:
        """Let these faults be all there are; without any it is well again."""
        draft = self.directory / "faults.draft"
        draft.write_text(json.dumps(faults))
        draft.rename(self.directory / "faults.json")

    def received(self) -> list[Mail]:
        """All mails so far, the oldest first."""
        files = sorted((self.directory / "new").glob("*.eml"))
        return [_mail(file.read_bytes()) for file in files]

    def wait_for_mails(self, number: int, timeout: float = 10.0) -> list[Mail]:
        """All mails, once there are so many."""
        wait_for(lambda: len(self.received()) >= number, timeout, f"{number} mails")
        return self.received()


def _mail(raw: bytes) -> Mail:
    message = message_from_bytes(raw, policy=default)
    assert isinstance(message, EmailMessage)
    return Mail(raw, message)
