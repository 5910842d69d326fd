"""One PUT that is sent piece by piece (RFC 9110, section 9.3.4), none of it kept here."""

from __future__ import annotations

import http.client
import io
import socket
from contextlib import suppress
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote, urlsplit

from requests.utils import get_environ_proxies, select_proxy

from wlm_tasks.errors import StepError, StorageRefusedError, StorageUnavailableError
from wlm_tasks.storage.access import Access
from wlm_tasks.storage.webclient import CONNECT_S, PORTS, STALL_S, WebClient, basic, translated

#: how long a server may take to say whether it wants the bytes; one that does not say gets them
_EXPECT_S: Final = 2.0
#: longest part of an answer's body that is read, in bytes
_LONGEST: Final = 64 * 1024


class Put:
    """A request under way: headers are sent at once, and bytes until `size` are.

    Made with ``Expect: 100-continue``, so that a server which refuses says so before the first
    byte (RFC 9110, section 10.1.1). `early` is what it said instead of asking for them.
    """

    def __init__(self, client: WebClient, url: str, size: int, *, expect: bool = True) -> None:
        self._client = client
        self._place = client.place
        self.url = url
        self.early: int | None = None
        self.location = ""
        self.etag = ""  #: of what was written, if the server's answer tells it
        with translated(self._place, client.access):
            self._connection, target, headers = _connection(url, client.access)
            try:
                self._begin(url, target, size, headers, expect=expect and size > 0)
            except BaseException:
                self.close()
                raise

    def send(self, data: bytes) -> None:
        """Send bytes; raises what the server said if it stopped to listen."""
        try:
            self._connection.send(data)
        except OSError as error:
            raise self._refused(error) from None

    def end(self) -> int:
        """Return the status of the answer once all is sent."""
        with translated(self._place, self._client.access):
            return self._answer()

    def close(self) -> None:
        """End the connection; a server that has not got everything throws it away."""
        self._connection.close()

    def _begin(
        self, url: str, target: str, size: int, proxy: dict[str, str], *, expect: bool
    ) -> None:
        connection = self._connection
        connection.connect()
        assert connection.sock is not None  # noqa: S101 - connected
        connection.sock.settimeout(STALL_S)
        parts = urlsplit(url)
        connection.putrequest("PUT", target, skip_host=True, skip_accept_encoding=True)
        headers = {
            "Host": parts.netloc,
            "User-Agent": "wlm_tasks",
            "Accept": "*/*",
            "Content-Type": "application/octet-stream",
            "Content-Length": str(size),
            **proxy,
        }
        if (value := self._client.authorization(url)) is not None:
            headers["Authorization"] = value
        if expect:
            headers["Expect"] = "100-continue"
        for name, text in headers.items():
            connection.putheader(name, text)
        connection.endheaders()
        if expect and (answer := _interim(connection.sock)) is not None:
            self.early, self.location = answer

    def _answer(self) -> int:
        response = self._connection.getresponse()
        self.location = response.headers.get("Location", "")
        self.etag = response.headers.get("ETag", "")
        response.read(_LONGEST)
        return response.status

    def _refused(self, error: OSError) -> StepError:
        """Return what the server said before it closed the connection, if it did."""
        status = 0
        if not isinstance(error, TimeoutError):  # then it says nothing either
            with suppress(OSError, http.client.HTTPException):
                status = self._answer()
        if status >= HTTPStatus.BAD_REQUEST:
            return put_trouble(self._client, status)
        return StorageUnavailableError(
            f"{self._place}: the connection broke while it was written ({type(error).__name__})"
        )


def put_trouble(client: WebClient, status: int) -> StepError:
    """Return the error of a PUT's status."""
    if status in {HTTPStatus.NOT_FOUND, HTTPStatus.GONE, HTTPStatus.CONFLICT}:
        return StorageRefusedError(
            f"{client.place}: the server has no such directory and makes none (HTTP {status})"
        )
    if status in {HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED}:
        return StorageRefusedError(
            f"{client.place}: the server takes no files there (HTTP {status} to PUT)"
        )
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return StorageRefusedError(
            f"{client.place}: the file is larger than the server takes (HTTP {status})"
        )
    return client.trouble(status, "writing: ")


def _interim(sock: socket.socket) -> tuple[int, str] | None:
    """Wait for ``100 Continue``; return status and ``Location`` if it is another answer.

    Byte by byte, so that nothing is taken which a final answer would begin with.
    """
    sock.settimeout(_EXPECT_S)
    try:
        status, location = _head(sock)
        while HTTPStatus.CONTINUE < status < HTTPStatus.OK:  # such as 103, Early Hints
            status, location = _head(sock)
    except _SilentError:
        return None
    finally:
        sock.settimeout(STALL_S)
    return None if status == HTTPStatus.CONTINUE else (status, location)


class _SilentError(Exception):
    """The server says nothing before it has the bytes."""


def _head(sock: socket.socket) -> tuple[int, str]:
    head = bytearray()
    while not head.endswith(b"\r\n\r\n"):
        try:
            byte = sock.recv(1)
        except TimeoutError:
            if head:
                raise
            raise _SilentError from None
        if not byte or len(head) > _LONGEST:
            raise http.client.BadStatusLine("")
        head += byte
    line, _, rest = bytes(head).partition(b"\r\n")
    words = line.split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():  # noqa: PLR2004
        raise http.client.BadStatusLine("")
    return int(words[1]), http.client.parse_headers(io.BytesIO(rest)).get("Location", "")


def _connection(url: str, access: Access) -> tuple[http.client.HTTPConnection, str, dict[str, str]]:
    """Return a connection yet to be made, how the URL is called on it, and headers for a proxy.

    A proxy of the environment is used as for all other requests.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or PORTS[parts.scheme]
    target = f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}"
    through = select_proxy(url, get_environ_proxies(url)) or ""
    proxy = urlsplit(through if "://" in through or not through else f"http://{through}")
    try:
        proxy_port = proxy.port or PORTS["http"]
    except ValueError:
        raise StorageRefusedError("the proxy that the environment names has no such port") from None
    at = (proxy.hostname, proxy_port) if proxy.hostname else (host, port)
    headers = _proxy_headers(proxy.username, proxy.password)
    if proxy.hostname and proxy.scheme != "http":
        raise StorageRefusedError(f"writing goes through no proxy of kind {proxy.scheme!r}")
    if parts.scheme == "https":
        secure = http.client.HTTPSConnection(*at, timeout=CONNECT_S, context=access.context())
        if proxy.hostname:
            secure.set_tunnel(host, port, headers)
        return secure, target, {}
    plain = http.client.HTTPConnection(*at, timeout=CONNECT_S)
    return (plain, url, headers) if proxy.hostname else (plain, target, {})


def _proxy_headers(user: str | None, password: str | None) -> dict[str, str]:
    if not user:
        return {}
    return {"Proxy-Authorization": basic(unquote(user), unquote(password or ""))}
