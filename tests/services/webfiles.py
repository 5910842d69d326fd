"""A small HTTP server of files that takes uploads: ``python -m services.webfiles PORT DIRECTORY``.

Paths that begin with a number of three digits, such as ``/507/x``, are answered with it. A request
with ``If-None-Match: *`` is refused if the file is there, unless the path begins with ``/deaf/``.
What is put below ``/short/`` loses its second half, below ``/twisted/`` it is turned around, and
below ``/dropped/`` it is not kept. Who asks for a file's size below ``/moved/`` is sent elsewhere.
"""

from __future__ import annotations

import os
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from services.ports import free_port, listening, release_port
from services.processes import Process
from services.service import Service

_TESTS: Final = Path(__file__).parents[1]


class WebFiles(Service):
    """One server in a process of its own; `directory` holds its files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "files"
        self._log = directory / "webfiles.log"
        self._port = 0
        self._process: Process | None = None

    @property
    def url(self) -> str:
        """Root of the server."""
        return f"http://127.0.0.1:{self._port}"

    def start(self, timeout: float = 30.0) -> None:
        """Start it and wait until it listens."""
        self._port = self._port or free_port()
        self.directory.mkdir(parents=True, exist_ok=True)
        self._process = Process(
            [sys.executable, "-m", "services.webfiles", str(self._port), self.directory],
            log=self._log,
            env=os.environ | {"PYTHONPATH": str(_TESTS)},
        )
        self._process.wait_for(lambda: listening(self._port), timeout, "the file server's port")

    def stop(self) -> None:
        """End it; its files and its port stay."""
        if self._process is not None:
            self._process.stop()

    def close(self) -> None:
        """End it."""
        self.stop()
        if self._port:
            release_port(self._port)

    def requests(self) -> list[str]:
        """Method, path and status of each request so far."""
        return re.findall(r"^(?:GET|PUT|HEAD) \S+ \d+$", self._log.read_text(), re.MULTILINE)


class _Requests(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root = Path()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing beyond a line for each answer."""

    def do_GET(self) -> None:
        self._give(body=True)

    def do_HEAD(self) -> None:
        if self.path.startswith("/moved/"):
            self._answer(302)
        else:
            self._give(body=False)

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self._refused():
            return
        file = self._file()
        heeds = not self.path.startswith("/deaf/")
        if heeds and self.headers["If-None-Match"] == "*" and file.exists():
            self._answer(412)
            return
        there = file.exists()
        file.parent.mkdir(parents=True, exist_ok=True)
        if self.path.startswith("/short/"):
            data = data[: len(data) // 2]
        if self.path.startswith("/twisted/"):
            data = data[::-1]
        if not self.path.startswith("/dropped/"):
            file.write_bytes(data)
        self._answer(204 if there else 201)

    def _give(self, *, body: bool) -> None:
        if self._refused():
            return
        if not self._file().is_file():
            self._answer(404)
            return
        self._answer(200, self._file().read_bytes(), body=body)

    def _refused(self) -> bool:
        match = re.match(r"/(\d{3})/", self.path)
        if match is not None:
            self._answer(int(match[1]))
        return match is not None

    def _file(self) -> Path:
        parts = [part for part in unquote(self.path).split("/") if part not in {"", ".", ".."}]
        return self.root.joinpath(*parts)

    def _answer(self, status: int, data: bytes = b"", *, body: bool = True) -> None:
        sys.stdout.write(f"{self.command} {self.path} {status}\n")
        sys.stdout.flush()
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)


def _main(port: str, directory: str) -> None:
    _Requests.root = Path(directory)
    ThreadingHTTPServer(("127.0.0.1", int(port)), _Requests).serve_forever()


if __name__ == "__main__":
    _main(*sys.argv[1:])
