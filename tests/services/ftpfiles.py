"""A small FTP server of files: ``python -m services.ftpfiles PORT DIRECTORY``.

It lets everybody in, knows binary files in passive mode, and takes nothing below ``/refused``.
"""

from __future__ import annotations

import os
import socket
import socketserver
import sys
from pathlib import Path
from typing import Final

from services.ports import free_port, listening, release_port
from services.processes import Process
from services.service import Service

_TESTS: Final = Path(__file__).parents[1]
#: what needs no more than an answer
_SAID: Final = {
    "USER": "331 any password",
    "PASS": "230 come in",
    "TYPE": "200 binary it is",
    "REST": "350 from there",
    "QUIT": "221 goodbye",
}


class FtpFiles(Service):
    """One server in a process of its own; `directory` holds its files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "files"
        self._log = directory / "ftpfiles.log"
        self._port = 0
        self._process: Process | None = None

    @property
    def url(self) -> str:
        """Root of the server."""
        return f"ftp://127.0.0.1:{self._port}"

    def start(self, timeout: float = 30.0) -> None:
        """Start it and wait until it listens."""
        self._port = free_port()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._process = Process(
            [sys.executable, "-m", "services.ftpfiles", str(self._port), self.directory],
            log=self._log,
            env=os.environ | {"PYTHONPATH": str(_TESTS)},
        )
        self._process.wait_for(lambda: listening(self._port), timeout, "the FTP server's port")

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.stop()
            release_port(self._port)


class _Session(socketserver.StreamRequestHandler):
    root = Path()

    def handle(self) -> None:
        self._here: tuple[str, ...] = ()
        self._data: socket.socket | None = None
        self._say("220 hello")
        for line in self.rfile:
            word, _, argument = line.decode().rstrip("\r\n").partition(" ")
            method = getattr(self, f"_{word.lower()}", None)
            if word in _SAID:
                self._say(_SAID[word])
            elif method is None:
                self._say("502 not here")
            else:
                method(argument)

    def _say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())

    def _file(self, argument: str) -> Path:
        parts = argument.split("/") if argument.startswith("/") else [*self._here, argument]
        return self.root.joinpath(*(part for part in parts if part not in {"", ".", ".."}))

    def _pwd(self, _argument: str) -> None:
        self._say(f'257 "/{"/".join(self._here)}"')

    def _cwd(self, argument: str) -> None:
        there = self._file(argument)
        if not there.is_dir():
            self._say("550 no such directory")
            return
        self._here = there.relative_to(self.root).parts
        self._say("250 there we are")

    def _mkd(self, argument: str) -> None:
        if argument == "refused":
            self._say("550 not permitted")
            return
        self._file(argument).mkdir()
        self._say(f'257 "{argument}" made')

    def _size(self, argument: str) -> None:
        file = self._file(argument)
        self._say(f"213 {file.stat().st_size}" if file.is_file() else "550 no such file")

    def _epsv(self, _argument: str) -> None:
        self._data = socket.create_server(("127.0.0.1", 0))
        self._say(f"229 Entering Extended Passive Mode (|||{self._data.getsockname()[1]}|)")

    def _retr(self, argument: str) -> None:
        file = self._file(argument)
        if not file.is_file() or self._data is None:
            self._say("550 no such file")
            return
        self._say("150 here it comes")
        with self._data, self._data.accept()[0] as connection:
            connection.sendall(file.read_bytes())
        self._say("226 done")

    def _stor(self, argument: str) -> None:
        if self._data is None:
            self._say("425 no connection")
            return
        self._say("150 send it")
        with self._data, self._data.accept()[0] as connection, connection.makefile("rb") as file:
            self._file(argument).write_bytes(file.read())
        self._say("226 done")


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def _main(port: str, directory: str) -> None:
    _Session.root = Path(directory)
    _Server(("127.0.0.1", int(port)), _Session).serve_forever()


if __name__ == "__main__":
    _main(*sys.argv[1:])
