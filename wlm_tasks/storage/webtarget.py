"""Files on HTTP servers as targets of transfers."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

import requests

from wlm_tasks.errors import (
    StepError,
    StorageAgainError,
    StorageRefusedError,
    StorageUnavailableError,
)
from wlm_tasks.model.ends import DigestOf, Part, Readable
from wlm_tasks.storage.locks import Locks
from wlm_tasks.storage.oneway import OneWay
from wlm_tasks.storage.webclient import GONE, HOPS, WebClient
from wlm_tasks.storage.webput import Put, put_trouble
from wlm_tasks.storage.websource import Version, version_of, web_file

_LOCKS: Final = Locks()
_MOVED: Final = frozenset({301, 302, 307, 308})
#: a server may not be asked by this method
_NO_METHOD: Final = frozenset({HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED})
#: answers to a PUT below a directory that is missing (RFC 4918, section 9.7.1)
_NO_DIRECTORY: Final = frozenset({HTTPStatus.CONFLICT, HTTPStatus.NOT_FOUND})
_WANTED: Final = {"Want-Repr-Digest": "sha-256=10, md5=1", "Want-Digest": "SHA-256, MD5;q=0.1"}
#: digests that are compared, the first that is told, and what `hashlib` calls them
_KNOWN: Final = {"sha-256": "sha256", "md5": "md5"}
_DIGEST: Final = re.compile(r"\s*([A-Za-z0-9-]+)=:?([A-Za-z0-9+/=]+):?\s*")


class WebTarget:
    """A file to write by PUT.

    The server must not show a file before it has all bytes that Content-Length says; the last
    ones are not sent before the transfer is verified. Other writers in this process are locked
    out, those of other processes are not: HTTP has no lock that every server knows, and the last
    one to end wins.
    """

    def __init__(self, client: WebClient) -> None:
        self._client = client
        self._missing = False  #: whether it was not there
        self._url = client.url  #: where its server wants it

    @contextmanager
    def present(self) -> Iterator[Readable | None]:
        """Open the file that is there, to be read back."""
        with self._client.ask("GET", {"Range": "bytes=0-0"}) as response:
            status = response.status_code
        self._missing = status in GONE
        if self._missing:
            yield None
            return
        with web_file(self._client) as file:
            yield file

    @contextmanager
    def part(self, size: int) -> Iterator[Part]:
        """Lock the URL; nothing is ever there of an earlier transfer."""
        url, place = self._client.url, self._client.place
        with _LOCKS.held(url, place):
            # some servers look for them when all bytes are there, which are sent twice then;
            # one that is no WebDAV server says no, and that is all
            if self._missing:
                _make_directories(self._client)
            part = _WebPart(self._client, self._url, size)
            try:
                yield part
            finally:
                part.close()
                self._url = part.url
            part.stopped()


def _differs(headers: requests.structures.CaseInsensitiveDict[str], digest: DigestOf) -> str | None:
    """Return which digest of the headers is another; those not known here do not count.

    Of MD5 none is asked for beside a SHA-256, as the source is read once more for that.
    """
    told = [f"md5={headers['Content-MD5']}"] if "Content-MD5" in headers else []
    for header in ("Repr-Digest", "Digest"):  # RFC 9530, RFC 3230
        told += headers.get(header, "").split(",")
    found = {match[1].lower(): match[2] for match in filter(None, map(_DIGEST.fullmatch, told))}
    name = next((name for name in _KNOWN if name in found), None)
    if name is None or found[name] in _spellings(bytes.fromhex(digest(_KNOWN[name]))):
        return None
    return name


def _spellings(digest: bytes) -> set[str]:
    """Return a digest as servers write it: in base64, or, against the RFC, in hex."""
    return {base64.b64encode(digest).decode("ascii"), digest.hex(), digest.hex().upper()}


class _WebPart(OneWay):
    """What is sent of a file; it cannot be read back before it is whole."""

    def __init__(self, client: WebClient, url: str, size: int) -> None:
        super().__init__(client.url, client.place)
        self.url = url
        self._client = client
        self._whole = size
        self._put: Put | None = None
        self._sent = 0
        #: the last bytes taken, sent when more come or when all are verified
        self._held = b""

    def write_at(self, offset: int, data: bytes) -> None:
        self.follow(offset, len(data))
        self._send(self._held)
        self._held = data

    def commit(self, digest: DigestOf) -> None:
        self._send(self._held)
        self._held = b""
        status, etag = self._answer() if self._whole else _put_empty(self._client)
        if status in _NO_DIRECTORY and _make_directories(self._client):
            raise StorageAgainError(
                f"{self.place}: its directories were missing, they are made now"
            )
        if not HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            raise put_trouble(self._client, status)
        self._verify(etag, digest)
        self.stops.ended = True

    def _answer(self) -> tuple[int, str]:
        """Return status and ETag of the answer once all is sent."""
        put = self._put = self._put or _begun(self._client, self.url, self._whole)
        status = put.end()
        self.close()
        if status in _MOVED and put.location:
            # nginx asks for all bytes before it says so, and whoever is behind it
            self.url = self._client.next(put.url, put.location)
            raise StorageAgainError(f"{self.place}: its server wants what was sent elsewhere")
        return status, put.etag

    def discard(self) -> None:
        self.close()
        self.stops.ended = True

    def close(self) -> None:
        if self._put is not None:
            self._put.close()
            self._put = None

    def stopped(self) -> None:
        """Count the times that sending was stopped; raise when it seems to come to no end."""
        self.stops.note(gained=False, tried=self._sent > 0)

    def _send(self, data: bytes) -> None:
        if not data:
            return
        if self._put is None:
            self._put = _begun(self._client, self.url, self._whole)
        self._put.send(data)
        self._sent += len(data)

    def _verify(self, etag: str, digest: DigestOf) -> None:
        """Compare size and digest as the server tells them.

        What is there and is another is removed if `etag` proves that it is what was written; it
        may be another writer's, too (RFC 9110, section 13.1.1).
        """
        version, headers = _asked(self._client)
        differs = _differs(headers, digest)
        if version.size is None and differs is None:
            with web_file(self._client) as file:
                size = file.size
        else:
            size = version.size if version.size is not None else self._whole
        if size == self._whole and differs is None:
            return
        left = "what is there is left, it may be another writer's"
        if etag.startswith('"') and version.etag == etag:
            with self._client.ask("DELETE", {"If-Match": etag}):
                left = "it is removed"
        found = f"{size} bytes" if size != self._whole else f"another {differs} digest"
        raise StorageUnavailableError(
            f"{self.place}: arrived with {found}, expected those of the {self._whole} bytes sent;"
            f" {left}"
        )


def _asked(
    client: WebClient,
) -> tuple[Version, requests.structures.CaseInsensitiveDict[str]]:
    """Return what the server tells of the file without sending it."""
    with client.ask("HEAD", _WANTED) as response:
        if response.status_code == HTTPStatus.OK:
            return version_of(response), response.headers
        if response.status_code not in _NO_METHOD:
            raise _lost(client, response.status_code)
    with client.ask("GET", _WANTED) as response:
        if response.status_code != HTTPStatus.OK:
            raise _lost(client, response.status_code)
        return version_of(response), response.headers


def _lost(client: WebClient, status: int) -> StepError:
    if status in GONE:
        return StorageUnavailableError(
            f"{client.place}: is not there after it was written (HTTP {status})"
        )
    return client.trouble(status, "after writing: ")


def _begun(client: WebClient, url: str, size: int) -> Put:
    """Begin a PUT where the server wants it, directories made if it asks for them."""
    expect, made = True, False
    for _ in range(HOPS + 1):
        put = Put(client, url, size, expect=expect)
        if put.early is None:
            return put
        put.close()
        if put.early in _MOVED and put.location:
            url = client.next(url, put.location)
        elif put.early == HTTPStatus.EXPECTATION_FAILED and expect:
            expect = False
        elif put.early in _NO_DIRECTORY and not made:
            made = True
            if not _make_directories(client):
                raise put_trouble(client, put.early)
        else:
            raise put_trouble(client, put.early)
    raise StorageRefusedError(f"{client.place}: sent us on more than {HOPS} times")


def _put_empty(client: WebClient) -> tuple[int, str]:
    """Put no byte, of which a server can only say afterwards that they belong elsewhere."""
    url = client.url
    for _ in range(HOPS + 1):
        put = Put(client, url, 0)
        try:
            status = put.end()
        finally:
            put.close()
        if status not in _MOVED or not put.location:
            return status, put.etag
        url = client.next(url, put.location)
    raise StorageRefusedError(f"{client.place}: sent us on more than {HOPS} times")


def _make_directories(client: WebClient) -> bool:
    """Make those above the file by MKCOL (RFC 4918, section 9.3); return whether any is new.

    From the lowest one up to the first that is there, then down: mostly one request is enough.
    """
    parts = urlsplit(client.url)
    names = parts.path.split("/")[1:-1]

    def make(count: int) -> int:
        path = "/".join(names[:count])
        with client.ask("MKCOL", url=f"{parts.scheme}://{parts.netloc}/{path}/") as response:
            return response.status_code

    there = len(names)
    while there and (status := make(there)) in _NO_DIRECTORY:
        there -= 1
    new = bool(there) and status == HTTPStatus.CREATED
    for count in range(there + 1, len(names) + 1):
        new = make(count) == HTTPStatus.CREATED or new
    return new
