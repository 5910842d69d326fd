"""A small HTTP server in a thread, with faults: GET with ranges, HEAD, PUT, POST, MKCOL."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import socket
import ssl
import threading
import time
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

from services.service import Service

_PIECE: Final = 64 * 1024


@dataclass
class Faults:
    """What the server does wrong, all off at first. A status is that of every answer."""

    ranges: bool = True  #: False: Range is ignored
    if_range: bool = True  #: False: ranges are sent whatever If-Range says
    chunked: bool = False  #: bodies without Content-Length
    head: bool = True  #: False: HEAD answers 405
    validators: bool = True  #: False: neither ETag nor Last-Modified
    weak: bool = False  #: ETags that begin with W/
    cut_after: int | None = None  #: the connection breaks after so many bytes of a body
    stall_after: int | None = None  #: nothing more comes or is taken after so many bytes of a body
    status: dict[str, int] = field(default_factory=dict)  #: by method; "*" for all
    location: str = ""  #: with a status of 300 or more
    lies: int = 0  #: added to every size that is told
    expect: bool = True  #: False: PUT is answered once all is there, as by old servers
    no_expect: bool = False  #: 100-continue is answered with 417
    keeps: int | None = None  #: only so many bytes of what is put are kept
    tells_etag: bool = True  #: False: what answers PUT has no ETag
    then: bytes | None = None  #: what another writer puts there right behind ours
    spoils: bool = False  #: the first byte of what is put becomes another
    digest: str = ""  #: the digest header that HEAD has: Repr-Digest, Digest or Content-MD5
    parents: bool = False  #: directories must be made before files
    authorization: str = ""  #: the header that is asked for
    phrase: str = ""  #: what statuses are called
    modified_now: bool = False  #: Last-Modified is that of the answer
    refuse_after: int | None = None  #: PUT is refused with 507 after so many bytes


@dataclass(frozen=True)
class Asked:
    """A request that was made."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""  #: what was posted


@dataclass(frozen=True)
class _Stored:
    data: bytes
    version: int


class WebServer(Service):
    """Files in memory by path; certificates are those of `cert_file`, if there is one."""

    def __init__(self, cert_file: Path | None = None, host: str = "127.0.0.1") -> None:
        self.faults = Faults()
        self.asked: list[Asked] = []
        self.connections = 0  #: made so far
        self.directories: set[str] = set()
        self._files: dict[str, _Stored] = {}
        self._versions = 0
        self._cert_file = cert_file
        self._host = host
        self._server: ThreadingHTTPServer | None = None
        self._closing = threading.Event()

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.server_address[1])

    @property
    def base(self) -> str:
        """The URL up to the path's slash."""
        return f"http{'s' if self._cert_file else ''}://{self._host}:{self.port}"

    def url(self, name: str) -> str:
        return f"{self.base}/{quote(name)}"

    def write(self, name: str, data: bytes) -> int:
        self._versions += 1
        self._files[f"/{name}"] = _Stored(data, self._versions)
        return self._versions

    def version(self, name: str) -> int:
        stored = self._files.get(f"/{name}")
        return 0 if stored is None else stored.version

    def read(self, name: str) -> bytes | None:
        stored = self._files.get(f"/{name}")
        return None if stored is None else stored.data

    def remove(self, name: str) -> None:
        self._files.pop(f"/{name}", None)

    def start(self) -> None:
        web = self

        class Handler(_Handler):
            store = web

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Say nothing of clients that went away."""

        self._server = Server((self._host, 0), Handler)
        if self._cert_file is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self._cert_file)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._closing.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def wait_closing(self, seconds: float) -> None:
        self._closing.wait(seconds)


class _Handler(BaseHTTPRequestHandler):
    store: WebServer
    protocol_version = "HTTP/1.1"
    timeout = 60

    def setup(self) -> None:
        self.store.connections += 1
        super().setup()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Write nothing."""

    @property
    def faults(self) -> Faults:
        return self.store.faults

    @property
    def name(self) -> str:
        return unquote(urlsplit(self.path).path)[1:]

    def handle_expect_100(self) -> bool:
        if not self.faults.expect:
            return True
        if status := 417 if self.faults.no_expect else self._refused():
            self._answer(status)
            self.close_connection = True
            return False
        return super().handle_expect_100()

    def do_GET(self) -> None:
        self._note()
        if status := self._refused():
            self._answer(status)
            return
        stored = self.store._files.get(f"/{self.name}")
        if stored is None:
            self._answer(404)
            return
        self._give(stored)

    do_HEAD = do_GET  # noqa: N815 - the library calls it so

    def do_PUT(self) -> None:
        self._note()
        data = self._take(int(self.headers["Content-Length"]))
        if data is None:
            return
        if status := self._refused():
            self._answer(status)
            return
        if self.faults.spoils:
            data = bytes([data[0] ^ 1]) + data[1:]
        version = self.store.write(self.name, data[: self.faults.keeps])
        if self.faults.then is not None:
            self.store.write(self.name, self.faults.then)
        self._answer(201, etag=f'"{version}"' if self.faults.tells_etag else "")

    def do_POST(self) -> None:
        data = self._take(int(self.headers["Content-Length"]))
        if data is None:
            return
        self.store.asked.append(Asked("POST", self.path, dict(self.headers), data))
        self._answer(self._refused() or 204)

    def do_DELETE(self) -> None:
        self._note()
        if self.headers.get("If-Match", "*") not in {"*", f'"{self.store.version(self.name)}"'}:
            self._answer(412)
            return
        self.store.remove(self.name)
        self._answer(204)

    def do_MKCOL(self) -> None:
        self._note()
        name = self.name.rstrip("/")
        parent = name.rpartition("/")[0]
        if status := self.faults.status.get("MKCOL"):
            self._answer(status)
        elif name in self.store.directories:
            self._answer(405)
        elif parent and parent not in self.store.directories:
            self._answer(409)
        else:
            self.store.directories.add(name)
            self._answer(201)

    def _note(self) -> None:
        self.store.asked.append(Asked(self.command, self.path, dict(self.headers)))

    def _refused(self) -> int:
        faults = self.faults
        if status := faults.status.get(self.command, faults.status.get("*", 0)):
            return status
        if self.command == "HEAD" and not faults.head:
            return 405
        if faults.authorization and self.headers.get("Authorization") != faults.authorization:
            return 401
        parent = self.name.rpartition("/")[0]
        if self.command == "PUT" and faults.parents and parent not in self.store.directories:
            return 409 if parent else 0
        return 0

    def _answer(self, status: int, etag: str = "") -> None:
        self.send_response(status, self.faults.phrase or None)
        if etag:
            self.send_header("ETag", etag)
        if self.faults.location and status >= 300:
            self.send_header("Location", self.faults.location)
        if status != 204:
            self.send_header("Content-Length", "0")
        self.end_headers()

    def _take(self, length: int) -> bytes | None:
        data = bytearray()
        after = self.faults.refuse_after
        while len(data) < length:
            if after is not None and len(data) >= after:
                self._answer(507)
                self.close_connection = True
                return None
            if self.faults.stall_after is not None and len(data) >= self.faults.stall_after:
                self._break()
                return None
            if not (piece := self.rfile.read(min(_PIECE, length - len(data)))):
                self.close_connection = True
                return None
            data += piece
        return bytes(data)

    def _give(self, stored: _Stored) -> None:
        data, begin, end = stored.data, 0, len(stored.data)
        told = len(data) + self.faults.lies
        etag = f'{"W/" if self.faults.weak else ""}"{stored.version}"'
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        same = not self.faults.if_range or self.headers.get("If-Range", etag) == etag
        if match and self.faults.ranges and same:
            begin, end = int(match[1]), min(end, int(match[2] or end) + 1)
            if begin >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{told}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{told}")
        else:
            self.send_response(200)
        length = end - begin + (0 if match and self.faults.ranges else self.faults.lies)
        chunked = self.faults.chunked  # a test may change it while this goes on
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(length))
        if self.faults.validators:
            self.send_header("ETag", etag)
            self.send_header("Last-Modified", self._modified(stored))
        for name, value in self._digests(data):
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self._send(data[begin:end], chunked=chunked)

    def _modified(self, stored: _Stored) -> str:
        then = time.time() if self.faults.modified_now else 1e9 + stored.version
        return formatdate(then, usegmt=True)

    def _digests(self, data: bytes) -> list[tuple[str, str]]:
        sha256 = base64.b64encode(hashlib.sha256(data).digest()).decode()
        md5 = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
        found = {
            "Repr-Digest": f"sha-512=:AAAA:, sha-256=:{sha256}:",
            "Digest": f"SHA-256={sha256}",
            "Content-MD5": md5,
        }
        return [(self.faults.digest, found[self.faults.digest])] if self.faults.digest else []

    def _send(self, data: bytes, *, chunked: bool) -> None:
        sent = 0
        while sent < len(data):
            piece = data[sent : sent + _PIECE]
            for limit in (self.faults.cut_after, self.faults.stall_after):
                if limit is not None:
                    piece = piece[: max(0, limit - sent)]
            if not piece:
                self._break()
                return
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            sent += len(piece)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _break(self) -> None:
        if self.faults.stall_after is not None:
            self.store.wait_closing(30)
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)
