"""A web server that gives the answers it was told to, one after the other."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Self

THRIFT = {"Content-Type": "application/vnd.apache.thrift.binary"}
_PIECE: Final = 5_000


@dataclass
class Answer:
    """What is sent for one request. `promised` is the length told, if it is not the true one."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=lambda: THRIFT)
    promised: int | None = None
    pause_s: float = 0.0  #: after every 5,000 bytes


class Canned(ThreadingHTTPServer):
    """The last answer is repeated. `requests` are path and headers of what came."""

    daemon_threads = True

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.requests: list[tuple[str, Any]] = []
        self.stopped = threading.Event()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stopped.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Canned

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, self.headers))
        answers = self.server.answers
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        self.send_response(answer.status)
        length = len(answer.body) if answer.promised is None else answer.promised
        for name, value in {**answer.headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()
        for start in range(0, len(answer.body), _PIECE):
            self.wfile.write(answer.body[start : start + _PIECE])
            if answer.pause_s and self.server.stopped.wait(answer.pause_s):
                return
