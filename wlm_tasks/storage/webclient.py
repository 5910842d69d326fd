"""Requests to one HTTP server (RFC 9110): who asks, where it leads, what an answer means."""

from __future__ import annotations

import base64
import http.client
import http.cookiejar
import logging
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import Final
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from wlm_tasks.errors import (
    InvalidPathError,
    StepError,
    StorageMissingError,
    StorageRefusedError,
    StorageUnavailableError,
)
from wlm_tasks.model.checks import show
from wlm_tasks.storage.access import Access
from wlm_tasks.storage.weburls import WebUrl

# tells whole URLs where debugging is on, and what is behind their question mark may let one in
logging.getLogger("urllib3.connectionpool").setLevel(logging.INFO)

#: seconds for a connection, and without a byte until one counts as broken
CONNECT_S: Final = 15.0
STALL_S: Final = 60.0
#: bytes of an answer's body that are rather read than a connection given up
_SMALL: Final = 1024
#: how often a request may be sent on
HOPS: Final = 5
_READING: Final = frozenset({"GET", "HEAD"})
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
PORTS: Final = {"http": 80, "https": 443}
#: answers that may be others after a pause, beside those of 500 and more
_PASSING: Final = frozenset({408, 421, 423, 425, 429})
#: of those of 500 and more the ones that will not
_LASTING: Final = frozenset({501, 505})
_FAULTS: Final = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
)
GONE: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.GONE})


class WebClient:
    """Sends requests for one URL, with the credentials of its storage.

    They go to the server of the URL alone, wherever it sends us on. Neither a ``.netrc`` nor
    cookies count; proxies of the environment do. Not for use by several threads.
    """

    def __init__(self, url: str, parsed: WebUrl, access: Access) -> None:
        self.place: Final = parsed.shown
        try:
            prepared = requests.Request("GET", url).prepare().url
        except (requests.RequestException, ValueError) as error:
            kind = type(error).__name__
            raise InvalidPathError(f"URL: got {show(self.place)}, which is none ({kind})") from None
        self.url: Final = prepared or url  #: with everything escaped that must be
        self.access: Final = access
        if access.ca_file is not None and self.url.startswith("https:"):
            access.context()  # tells what is wrong with that file, as no request would
        self._session = _Session()
        self._session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=()))
        self._session.headers["User-Agent"] = "wlm_tasks"

    def close(self) -> None:
        """Close all connections."""
        self._session.close()

    @contextmanager
    def ask(
        self, method: str, headers: Mapping[str, str] | None = None, url: str | None = None
    ) -> Iterator[requests.Response]:
        """Send a request without a body, for the URL if no other is given.

        The body of the answer is not looked at.
        """
        response = self.send(method, headers, url)
        try:
            yield response
        finally:
            # with the answer read to its end the next request goes out on the same connection
            length = response.headers.get("Content-Length", "")
            if method == "HEAD" or (
                length.isascii() and length.isdigit() and int(length) <= _SMALL
            ):
                with suppress(requests.RequestException):
                    _ = response.content
            response.close()

    def send(
        self, method: str, headers: Mapping[str, str] | None = None, url: str | None = None
    ) -> requests.Response:
        """Do the same; the caller has to close the response."""
        at = url or self.url
        for _ in range(HOPS + 1):
            response = self._once(method, at, headers or {})
            location = response.headers.get("Location")
            if response.status_code not in _REDIRECTS or not location:
                return response
            if response.status_code == HTTPStatus.SEE_OTHER and method not in _READING:
                return response  # what is there is an answer to look at, no place to ask again
            response.close()
            at = self.next(at, location)
        raise StorageRefusedError(f"{self.place}: sent us on more than {HOPS} times")

    def authorization(self, url: str) -> str | None:
        """Return the header's value for a request to that URL, None if it has to go without."""
        if not self.access.has_secret or not _same_server(self.url, url):
            return None
        token = self.access.token()
        if token is not None:
            return f"Bearer {token}"
        user, password = self.access.credentials() or ("", "")
        return basic(user, password)

    def trouble(self, status: int, what: str = "") -> StepError:
        """Return the error of an answer that is not the one wished for."""
        return trouble(self.place, status, self.access, what)

    def _once(self, method: str, url: str, headers: Mapping[str, str]) -> requests.Response:
        with translated(self.place, self.access):
            return self._session.request(
                method,
                url,
                # what is stored is wanted, not what a server makes of it on the way
                headers={"Accept-Encoding": "identity", "Accept": "*/*", **headers},
                auth=_Authorization(self.authorization(url)),
                timeout=(CONNECT_S, STALL_S),
                allow_redirects=False,
                stream=True,
                verify=self.access.authorities if url.lower().startswith("https:") else True,
            )

    def next(self, url: str, location: str) -> str:
        """Return where a server sends us, never from TLS to a place without it."""
        try:
            target = urljoin(url, location)
            parts = urlsplit(target)
            good = parts.scheme in PORTS and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            good = False
        if not good:
            raise StorageRefusedError(f"{self.place}: sent us on, but not to a server of files")
        if parts.path == f"{urlsplit(url).path}/":
            raise StorageRefusedError(f"{self.place}: is a directory there, expected a file")
        if urlsplit(url).scheme == "https" and parts.scheme != "https":
            raise StorageRefusedError(f"{self.place}: sent us on to {parts.hostname} without TLS")
        return target


def basic(user: str, password: str) -> str:
    """Return what lets a user in with a password (RFC 7617, section 2)."""
    pair = f"{user}:{password}".encode()
    return f"Basic {base64.b64encode(pair).decode('ascii')}"


class _Session(requests.Session):
    """Follows nothing by itself: it would read what an answer sends along, however much that is."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Tell none."""


class _Authorization(requests.auth.AuthBase):
    """The credentials of one request; none of its own accord, as from a ``.netrc``."""

    def __init__(self, value: str | None) -> None:
        self._value = value

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._value is not None:
            request.headers["Authorization"] = self._value
        return request


@contextmanager
def translated(place: str, access: Access) -> Iterator[None]:
    """Raise `StorageUnavailableError` for what goes wrong on the way to a server and back.

    Of the original only its kind is told: its text may have the URL with what lets one in.
    """
    try:
        yield
    except (requests.exceptions.InvalidURL, UnicodeError) as error:
        raise StorageRefusedError(
            f"{place}: cannot be asked for ({type(error).__name__})"
        ) from None
    except _FAULTS as error:
        raise StorageUnavailableError(f"{place}: {_words(error, access)}") from None


def _words(error: BaseException, access: Access) -> str:
    """Return what went wrong, in words of our own."""
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text or isinstance(error, ssl.SSLCertVerificationError):
        # transient: who renews a certificate or sets `ca_file` mends it, and nothing is lost
        return (
            "the server's certificate is not trusted; let the server have a valid one, or name"
            f" its authority's by {access.setting('ca_file')}"
        )
    kinds: list[tuple[tuple[type[BaseException], ...], str, str]] = [
        ((requests.ConnectTimeout,), "ConnectTimeout", "cannot be reached in time"),
        ((requests.Timeout, TimeoutError), "Read timed out", "no byte in time"),
        ((requests.exceptions.SSLError, ssl.SSLError), "SSLError", "TLS failed"),
        ((ConnectionRefusedError,), "NewConnectionError", "cannot be reached"),
        ((), "NameResolutionError", "cannot be reached"),
    ]
    for classes, name, words in kinds:
        if isinstance(error, classes) or name in repr(error):
            return f"{words} ({type(error).__name__})"
    return f"the connection broke ({type(error).__name__})"


def trouble(place: str, status: int, access: Access, what: str = "") -> StepError:
    """Return the error of a status that is not the one wished for."""
    told = f"{place}: {what}" if what else f"{place}: "
    if status in GONE:
        return StorageMissingError(f"{place}: No such file (HTTP {status})")
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return StorageRefusedError(f"{told}permission denied (HTTP {status}): {_hint(access)}")
    if status == HTTPStatus.INSUFFICIENT_STORAGE:
        return StorageUnavailableError(f"{told}no room left there (HTTP {status})")
    words = f"{told}the server answered {named(status)}"
    if status in _PASSING or (
        status >= HTTPStatus.INTERNAL_SERVER_ERROR and status not in _LASTING
    ):
        return StorageUnavailableError(words)
    return StorageRefusedError(words)


def named(status: int) -> str:
    """Return a status with its name; what the server calls it might be anything."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _hint(access: Access) -> str:
    ways = f"{access.setting('credentials')} or {access.setting('token')}"
    if access.has_secret:
        return f"what {ways} leads to does not let us"
    return f"it may need {access.setting('credentials')}, or `token` there"


def _same_server(first: str, second: str) -> bool:
    """Whether what is meant for the server of the first URL may go to that of the second."""
    one, other = urlsplit(first), urlsplit(second)
    if one.hostname != other.hostname:
        return False
    ports = one.port or PORTS[one.scheme], other.port or PORTS[other.scheme]
    if one.scheme == other.scheme:
        return ports[0] == ports[1]
    return (one.scheme, other.scheme) == ("http", "https") and ports == (80, 443)
