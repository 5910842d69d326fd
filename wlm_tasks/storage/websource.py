"""Files on HTTP servers as sources of transfers: one stream, begun where it is wanted."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final

import requests

from wlm_tasks.errors import StorageRefusedError, StorageUnavailableError
from wlm_tasks.storage.webclient import WebClient, translated

#: bytes read from a connection at once
_PIECE: Final = 64 * 1024
#: seconds after which a slow reader gives what it has, so that it can be asked to stop
_PATIENCE_S: Final = 1.0
#: a file whose server does not tell its size is read once to count: at most so many bytes, and
#: so many seconds, as nothing can stop it meanwhile
COUNT_LIMIT: Final = 4 << 30
COUNT_S: Final = 240.0
#: the same for passing over bytes that are here: as long as a slice may be
PASS_S: Final = 600.0
_YOUNG_S: Final = 2.0
_CONTENT_RANGE: Final = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Version:
    """What a server tells of a file; another of the same name has another, mostly."""

    size: int | None  #: bytes in all, None if it does not tell
    etag: str
    modified: str
    #: whether it was changed within the last seconds of the server's clock, and may be once more
    #: without another time (RFC 9110, section 8.8.2.2)
    young: bool = field(compare=False)

    @property
    def known(self) -> bool:
        """Whether another content would be seen by more than its size."""
        return bool(self.etag or self.modified) and not self.young

    def may_be(self, other: Version) -> bool:
        """Whether nothing that both tell differs: a part may come with fewer headers (15.3.7)."""
        pairs = ((self.etag, other.etag), (self.modified, other.modified))
        sizes = {self.size, other.size} - {None}
        return len(sizes) <= 1 and all(one == two for one, two in pairs if one and two)

    @property
    def condition(self) -> dict[str, str]:
        """The header that asks for a range of this very content (RFC 9110, section 13.1.5)."""
        strong = self.etag.startswith('"')
        return {"If-Range": self.etag} if strong else {}


def version_of(response: requests.Response) -> Version:
    """Return what the headers of an answer tell of the whole file.

    Raises `StorageUnavailableError` if they make no sense.
    """
    headers = response.headers
    size: int | None
    if response.status_code in {HTTPStatus.PARTIAL_CONTENT, 416}:
        size = _content_range(response)[1]
    else:
        length = headers.get("Content-Length", "")
        plain = "chunked" not in headers.get("Transfer-Encoding", "").lower()
        size = int(length) if plain and length.isascii() and length.isdigit() else None
    modified = headers.get("Last-Modified", "")
    return Version(
        size=size,
        etag=headers.get("ETag", ""),
        modified=modified,
        young=_apart(modified, headers.get("Date", "")) < _YOUNG_S,
    )


def _apart(modified: str, now: str) -> float:
    """Return how many seconds lie between two dates, many if one is missing."""
    try:
        return (parsedate_to_datetime(now) - parsedate_to_datetime(modified)).total_seconds()
    except (TypeError, ValueError):
        return math.inf


def _content_range(response: requests.Response) -> tuple[int | None, int | None]:
    """Return the first byte of a part and the size of all, as far as they are told."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    if match is None:
        return None, None
    return (
        int(match[1]) if match[1] else None,
        None if match[3] == "*" else int(match[3]),
    )


class WebFile:
    """A file on an HTTP server, opened for reading from its first byte to its last."""

    def __init__(self, client: WebClient) -> None:
        self.place = client.place
        self.mode: int | None = None
        self._client = client
        self._version = probe(client)
        self._stream: requests.Response | None = None
        self._at = 0  #: where the stream is
        self._told = self._version.size is not None
        self._size = self._count() if self._version.size is None else self._version.size

    @property
    def size(self) -> int:
        """Bytes in all when it was opened."""
        return self._size

    def read_at(self, offset: int, length: int) -> bytes:
        """Return the bytes there; going on where the last read ended costs no request."""
        if self._stream is None or self._at != offset:
            if offset >= self._size:
                return b""
            self._open(offset)
        return self._read(length)

    def digest(self, length: int) -> None:
        """Tell nothing: servers know digests of whole files at best."""

    def identity(self) -> Hashable:
        """Return the version; nothing equals that of a server which tells none."""
        return (self._client.url, self._version) if self._version.known else object()

    def changed(self) -> bool:
        """Ask the server for the version again."""
        try:
            return probe(self._client) != self._version
        except StorageRefusedError:
            return True

    def close(self) -> None:
        """End the stream."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _open(self, offset: int) -> None:
        """Begin a stream there; where there are no ranges what is before it is passed over."""
        self.close()
        headers = {"Range": f"bytes={offset}-", **self._version.condition} if offset else {}
        response = self._client.send("GET", headers)
        try:
            self._at = self._begin(response, offset)
            self._stream = response
            self._pass_over(offset)
        except BaseException:
            response.close()
            self._stream = None
            raise

    def _pass_over(self, offset: int) -> None:
        until = time.monotonic() + PASS_S
        while self._at < offset:
            if time.monotonic() > until:
                raise StorageUnavailableError(
                    f"{self.place}: its server sends files from their begin only, and the {offset}"
                    f" bytes that are here could not be passed over in {PASS_S:g} s"
                )
            if not self._read(min(_PIECE, offset - self._at)):
                raise self._changed()

    def _begin(self, response: requests.Response, offset: int) -> int:
        """Return at which byte an answer begins, if it is one of the same file."""
        status = response.status_code
        if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise self._changed()
        if status not in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
            raise self._client.trouble(status)
        if not version_of(response).may_be(self._version):
            raise self._changed()
        if status == HTTPStatus.OK:
            return 0
        begin, _size = _content_range(response)
        if begin != offset:
            raise StorageUnavailableError(
                f"{self.place}: sent the bytes from {begin} on, expected those from {offset} on"
            )
        return offset

    def _read(self, length: int) -> bytes:
        """Read on in the stream; an end before the end of the file is an error."""
        assert self._stream is not None  # noqa: S101 - opened by the caller
        data = bytearray()
        until = time.monotonic() + _PATIENCE_S
        while len(data) < length and time.monotonic() < until:
            with translated(f"{self.place}: after {self._at} bytes", self._client.access):
                # undecoded: a file that is stored compressed stays so
                piece = self._stream.raw.read(min(_PIECE, length - len(data)), decode_content=False)
            if not piece:
                break
            data += piece
            self._at += len(piece)
        if not data and self._told and self._at < self._size:
            raise StorageUnavailableError(
                f"{self.place}: the connection ended after {self._at} of {self._size} bytes"
            )
        return bytes(data)

    def _count(self) -> int:
        """Read all of it to learn its size."""
        until = time.monotonic() + COUNT_S
        self._size = 0
        self._open(0)
        while self._read(_PIECE):
            if self._at > COUNT_LIMIT or time.monotonic() > until:
                self.close()
                raise StorageRefusedError(
                    f"{self.place}: its server does not tell its size, and it has more than the"
                    f" {self._at} bytes that could be counted in {COUNT_S:g} s; let the server"
                    " send Content-Length"
                )
        counted = self._at
        self.close()
        return counted

    def _changed(self) -> StorageUnavailableError:
        return StorageUnavailableError(f"{self.place}: was changed while it was read")


def probe(client: WebClient) -> Version:
    """Ask for one byte of the file, which tells more than HEAD: some servers permit GET alone."""
    with client.ask("GET", {"Range": "bytes=0-0"}) as response:
        status = response.status_code
        if status in {HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT}:
            return version_of(response)
        if status != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise client.trouble(status)
        version = version_of(response)
    if version.size:
        raise client.trouble(status)
    # no byte: an empty file. What tells its version is in the answer to a whole GET
    with client.ask("GET") as response:
        if response.status_code != HTTPStatus.OK:
            raise client.trouble(response.status_code)
        return version_of(response)


@contextmanager
def web_file(client: WebClient) -> Iterator[WebFile]:
    """Open a file for the time of a ``with``."""
    file = WebFile(client)
    try:
        yield file
    finally:
        file.close()
