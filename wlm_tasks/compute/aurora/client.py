"""Calls to an Aurora scheduler over HTTP: one request each, none sent twice behind our back."""

from __future__ import annotations

import base64
import http.cookiejar
import os
import time
from http import HTTPStatus
from typing import Any, Final, NamedTuple
from urllib.parse import urljoin, urlsplit

import requests
from requests.exceptions import ConnectTimeout
from urllib3.exceptions import NewConnectionError

from wlm_tasks.compute.aurora import answers
from wlm_tasks.compute.aurora.options import AuroraOptions, address
from wlm_tasks.compute.aurora.wire import decode, encode
from wlm_tasks.errors import ConfigError, SiteAuthError, SiteUnreachableError, StepError

_BINARY: Final = "application/vnd.apache.thrift.binary"
# both are needed: Accept alone decides how the scheduler answers
_HEADERS: Final = {"Content-Type": _BINARY, "Accept": _BINARY, "Accept-Encoding": "gzip"}
#: schedulers that are not the leader name the one that is
_HOPS: Final = 3
_REDIRECTS: Final = frozenset({301, 302, 307, 308})
#: seconds for a connection and for an answer; after their sum a call is over, redirects and all
CONNECT_S: Final = 10.0
READ_S: Final = 30.0
#: longest answer, in bytes; a task takes some 400
_LONGEST: Final = 64 << 20
_PIECE: Final = 4 << 10


class _Answer(NamedTuple):
    status: int
    reason: str
    location: str
    body: bytes


class AuroraClient:
    """Speaks to one site's scheduler; may be used by many threads and after a fork."""

    def __init__(
        self, options: AuroraOptions, *, connect_s: float = CONNECT_S, read_s: float = READ_S
    ) -> None:
        self._options = options
        self._who = f"Aurora at {address(options.url)}"
        self._connect_s, self._read_s = connect_s, read_s
        self._session: tuple[int, requests.Session] | None = None

    def call(self, method: str, **arguments: Any) -> Any:
        """Call a method and return its ``Result``, None if it has none.

        Raises `SiteTroubleError` or another `BackendUnavailableError` if the call was not done,
        `JobUndecidedError` if it may have been, `JobRejectedError` with the scheduler's words.
        """
        body = self._post(method, encode(method, arguments))
        try:
            response = decode(method, body)
        except ValueError as error:
            raise self.undecided(method, str(error)) from error
        problem = answers.of_response(self._who, method, response)
        if problem is not None:
            raise problem
        return response.result

    def undecided(self, method: str, what: str) -> StepError:
        """Return the error of an answer that makes no sense."""
        return answers.undecided(self._who, method, what)

    def close(self) -> None:
        """Close the connections of this process."""
        session, self._session = self._session, None
        if session is not None and session[0] == os.getpid():
            session[1].close()

    def _post(self, method: str, data: bytes) -> bytes:
        """Send the message to the leader and return the body of its answer."""
        url = f"{self._options.url}/api"
        deadline = time.monotonic() + self._connect_s + self._read_s
        for _ in range(_HOPS + 1):
            answer = self._send(method, url, data, deadline)
            if answer.status not in _REDIRECTS:
                break
            url = self._allowed(url, answer.location)
        else:
            raise SiteUnreachableError(f"{self._who}: sent us on more than {_HOPS} times")
        if answer.status != HTTPStatus.OK:
            raise answers.of_status(self._who, method, answer.status, answer.reason)
        return answer.body

    def _allowed(self, url: str, location: str) -> str:
        """Return where a scheduler sends us, if credentials and jobs may go there."""
        try:
            target = urljoin(url, location)
            host = address(target)
        except ValueError:
            raise SiteUnreachableError(f"{self._who}: sent us on, but not to a host") from None
        if host not in self._options.hosts:
            raise SiteAuthError(
                f"{self._who}: sent us on to {host}, which the site's setting `hosts` does not name"
            )
        if urlsplit(url).scheme == "https" and urlsplit(target).scheme != "https":
            raise SiteAuthError(f"{self._who}: sent us on to {host} without TLS")
        return target

    def _send(self, method: str, url: str, data: bytes, deadline: float) -> _Answer:
        left = max(0.01, deadline - time.monotonic())
        try:
            with self._ours().post(
                url,
                data=data,
                headers=_HEADERS,
                auth=self._auth(),
                timeout=(min(self._connect_s, left), min(self._read_s, left)),
                allow_redirects=False,
                stream=True,
            ) as response:
                return _Answer(
                    response.status_code,
                    response.reason or "",
                    response.headers.get("Location", ""),
                    self._body(method, response, deadline),
                )
        except requests.RequestException as error:
            # what an error says may hold the URL, never headers; still only its kind is told
            raise self._trouble(method, error) from error
        except ValueError as error:  # requests looks at a redirect that it is not to follow
            raise self.undecided(method, "sent us on, but not to a host") from error

    def _body(self, method: str, response: requests.Response, deadline: float) -> bytes:
        """Read all of an answer, but not without end in length or time."""
        body = bytearray()
        for piece in response.iter_content(_PIECE):
            body += piece
            if len(body) > _LONGEST:
                raise self.undecided(method, f"answered with more than {_LONGEST >> 20} MiB")
            if time.monotonic() > deadline:
                raise self.undecided(method, "did not end its answer in time")
        return bytes(body)

    def _trouble(self, method: str, error: requests.RequestException) -> StepError:
        words = type(error).__name__
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return SiteAuthError(f"{self._who}: its certificate is not trusted")
        if isinstance(error, ConnectTimeout) or _never_connected(error):
            return SiteUnreachableError(f"{self._who}: cannot be reached ({words})")
        return answers.undecided(self._who, method, f"did not answer ({words})")

    def _auth(self) -> _Basic:
        secret = self._options.credentials
        try:
            return _Basic(None if secret is None else secret.reveal())
        except ConfigError as error:
            # a person has to mend it, and until then no job is to blame
            raise SiteAuthError(error.message) from error

    def _ours(self) -> requests.Session:
        """Return this process's session: a connection must not be shared with a parent's."""
        pid = os.getpid()
        session = self._session
        if session is None or session[0] != pid:
            made = requests.Session()
            made.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=()))
            session = self._session = (pid, made)
        return session[1]


class _Basic(requests.auth.AuthBase):
    """The credentials of one request; none of its own accord, as from a ``.netrc``."""

    def __init__(self, credentials: str | None) -> None:
        self._credentials = credentials

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._credentials is not None:
            encoded = base64.b64encode(self._credentials.encode()).decode("ascii")
            request.headers["Authorization"] = f"Basic {encoded}"
        return request


def _never_connected(error: requests.RequestException) -> bool:
    """Whether a request failed before anything of it was sent."""
    cause = error.args[0] if error.args else None
    return isinstance(getattr(cause, "reason", cause), NewConnectionError)
