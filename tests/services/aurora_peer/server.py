"""HTTP as the scheduler speaks it, and the URLs ``/control`` by which tests switch faults."""

from __future__ import annotations

import base64
import gzip
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from thrift.protocol.TBinaryProtocol import TBinaryProtocol
from thrift.protocol.TJSONProtocol import TJSONProtocol
from thrift.transport.TTransport import TMemoryBuffer

from services.aurora_peer.faults import Switches
from services.aurora_peer.machine import Machine

BINARY: Final = "application/vnd.apache.thrift.binary"
_JSON: Final = "application/vnd.apache.thrift.json"
#: what a request's Content-Type means; everything else is refused
_PROTOCOLS: Final = {
    None: TJSONProtocol,
    "application/json": TJSONProtocol,
    "application/x-thrift": TJSONProtocol,
    _JSON: TJSONProtocol,
    BINARY: TBinaryProtocol,
}


class Books:
    """What was asked, for tests."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.calls: Counter[str] = Counter()
        self.requests: list[dict[str, Any]] = []

    def note(self, method: str, headers: Any) -> None:
        """Note a request."""
        names = ("Content-Type", "Accept", "Authorization", "Accept-Encoding", "Cookie")
        with self.lock:
            self.calls[method] += 1
            self.requests.append({"method": method} | {name: headers[name] for name in names})
            del self.requests[:-50]


class Server(ThreadingHTTPServer):
    """The listening socket and what its handlers share."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, processor: Any, machine: Machine, switches: Switches) -> None:
        self.processor = processor
        self.machine = machine
        self.switches = switches
        self.books = Books()
        super().__init__(("127.0.0.1", port), Requests)


class Requests(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing of good requests."""

    def do_GET(self) -> None:
        faults = self.server.switches.now
        if self.path == "/leaderhealth":
            self._reply(502 if faults.no_leader else 503 if faults.redirect_to else 200)
        elif self.path == "/control":
            books = self.server.books
            with books.lock:
                shown = {"calls": books.calls, "requests": books.requests}
                told = json.dumps(
                    {
                        **shown,
                        "active": self.server.machine.active(),
                        "faults": self.server.switches.shown(),
                    }
                )
            self._reply(200, told.encode())
        else:
            self._reply(404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if self.path == "/control":
            self.server.switches.set(json.loads(body))
            self._reply(200)
        elif self.path == "/control/others":
            self.server.machine.place(json.loads(body))
            self._reply(200)
        elif self.path == "/api":
            self._api(body)
        else:
            self._reply(404)

    def _api(self, body: bytes) -> None:
        faults = self.server.switches.now
        content_type = self.headers["Content-Type"]
        method = _method(content_type, body)
        self.server.books.note(method, self.headers)
        if self._led_elsewhere():
            return
        if faults.page:
            self._reply(200, b"<html>please log in</html>")
        elif not self._permitted(method):
            self._reply(401, headers={"WWW-Authenticate": 'Basic realm="Aurora"'})
        elif content_type not in _PROTOCOLS:
            self._reply(415)
        elif self.server.switches.hits("lost_call", method):
            self._cut()
        elif self.server.switches.hits("broken", method):
            self._reply(500, b"<html>error</html>")
        else:
            time.sleep(faults.hang_s.get(method, 0))
            self._process(content_type, method, body)

    def _led_elsewhere(self) -> bool:
        """Answer in place of the leader, if this is not the leader."""
        faults = self.server.switches.now
        if self.headers["Bypass-Leader-Redirect"]:
            return False
        if faults.no_leader:
            self._reply(503, b"<html>no leading scheduler</html>")
        elif faults.redirect_to:
            self._reply(307, headers={"Location": f"{faults.redirect_to}{self.path}"})
        return bool(faults.no_leader or faults.redirect_to)

    def _permitted(self, method: str) -> bool:
        wanted = self.server.switches.now.credentials
        if wanted is None or method.startswith("get"):
            return True
        encoded = base64.b64encode(wanted.encode()).decode()
        return bool(self.headers["Authorization"] == f"Basic {encoded}")

    def _process(self, content_type: str | None, method: str, body: bytes) -> None:
        binary = self.headers["Accept"] == BINARY
        answer = TMemoryBuffer()
        out = TBinaryProtocol(answer) if binary else TJSONProtocol(answer)
        try:
            self.server.processor.process(_reader(content_type, body), out)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it
            self._reply(500, str(error).encode())
            return
        if self.server.switches.hits("lost_answer", method):
            self._cut()
        else:
            self._reply(
                200, answer.getvalue(), headers={"Content-Type": BINARY if binary else _JSON}
            )

    def _cut(self) -> None:
        """Close the connection in the middle of it."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _reply(
        self, status: int, body: bytes = b"", *, headers: Mapping[str, str] | None = None
    ) -> None:
        told = dict(headers or {})
        if body and "gzip" in (self.headers["Accept-Encoding"] or ""):
            body = gzip.compress(body, 1)
            told["Content-Encoding"] = "gzip"
        self.send_response(status)
        for name, value in told.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _reader(content_type: str | None, body: bytes) -> Any:
    buffer = TMemoryBuffer(body)
    kind = _PROTOCOLS[content_type]
    if kind is TBinaryProtocol:
        return TBinaryProtocol(buffer, strictRead=True, strictWrite=True)
    return kind(buffer)


def _method(content_type: str | None, body: bytes) -> str:
    try:
        return str(_reader(content_type, body).readMessageBegin()[0])
    except Exception:  # noqa: BLE001 - whatever is wrong with it
        return "?"
