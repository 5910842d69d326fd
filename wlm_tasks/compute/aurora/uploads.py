"""What jobs without a shared scratch left at their site's ``upload_url``: record and output."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http import HTTPStatus
from typing import Final

import requests

from wlm_tasks.compute.attempt import ExitRecord
from wlm_tasks.compute.aurora.sandbox import upload_place
from wlm_tasks.errors import BackendUnavailableError
from wlm_tasks.model.checks import one_line

#: seconds for a connection, for a pause between two pieces, and for a whole file
_CONNECT_S: Final = 5.0
_READ_S: Final = 10.0
_ALL_S: Final = 10.0
#: how long nobody asks for a record after the server did not answer: at first, and at most
_REST_S: Final = 2.0
_LONGEST_REST_S: Final = 30.0
_RECORD_BYTES: Final = 64 << 10
_REASON_LIMIT: Final = 2000
_TAIL_BYTES: Final = 256 << 10
_PIECE: Final = 64 << 10
_ABSENT: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.GONE})


#: most brackets of a record, in its reason: what is deeper would fill the stack
_DEEPEST: Final = 500


class Uploads:
    """One site's uploads; may be used by many threads and after a fork."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session: tuple[int, requests.Session] | None = None
        self._rest_s = 0.0
        self._rests_until = 0.0
        self._silent_since = math.inf

    def __bool__(self) -> bool:
        """Whether the site has such a place."""
        return bool(self._url)

    @property
    def silent_s(self) -> float:
        """For how long the server has not answered, in seconds; below 0 if it does."""
        return time.monotonic() - self._silent_since

    def record(self, token: str) -> ExitRecord | None:
        """Return the exit record of an attempt, None if there is none or it makes no sense.

        Raises `BackendUnavailableError` if the server does not tell; for a while after it did not
        answer, without asking: one job waited for all.
        """
        if time.monotonic() < self._rests_until:
            raise BackendUnavailableError(f"{self._url}: did not answer and is asked again soon")
        data = self._end(f"{upload_place(self._url, token)}.exit.json", _RECORD_BYTES)
        if not data or data.count(b"{") + data.count(b"[") > _DEEPEST:
            return None
        try:
            return _plain(json.loads(data))
        except ValueError:
            return None

    def tail(self, token: str, stream: str, lines: int) -> str:
        """Return the last lines of a stream, empty if it is not there (yet)."""
        data = self._end(f"{upload_place(self._url, token)}.{stream}", _TAIL_BYTES)
        text = (data or b"").decode(errors="replace")
        return "".join(text.splitlines(keepends=True)[-lines:]) if lines > 0 else ""

    def close(self) -> None:
        """Close the connections of this process."""
        session, self._session = self._session, None
        if session is not None and session[0] == os.getpid():
            session[1].close()

    def _end(self, url: str, limit: int) -> bytes | None:
        """Return the last bytes of a file, None without it."""
        deadline, found = time.monotonic() + _ALL_S, b""
        with self._answer(url, limit) as answer:
            status = answer.status_code
            if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return b""  # an empty file
            if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
                for piece in answer.iter_content(_PIECE):
                    found = (found + piece)[-limit:]
                    if time.monotonic() > deadline:
                        self._rest()
                        raise BackendUnavailableError(f"{url}: not read within {_ALL_S:g} s")
                return found
        if status in _ABSENT:
            return None
        raise BackendUnavailableError(f"{url}: HTTP {status}")

    def _rest(self) -> None:
        self._rest_s = min(max(_REST_S, 2 * self._rest_s), _LONGEST_REST_S)
        self._rests_until = time.monotonic() + self._rest_s
        self._silent_since = min(self._silent_since, time.monotonic())

    @contextmanager
    def _answer(self, url: str, limit: int) -> Iterator[requests.Response]:
        headers = {"Range": f"bytes=-{limit}", "Accept-Encoding": "identity"}
        try:
            with self._of_this_process().get(
                url,
                headers=headers,
                stream=True,
                timeout=(_CONNECT_S, _READ_S),
                allow_redirects=False,
            ) as answer:
                yield answer
            self._rest_s, self._silent_since = 0.0, math.inf
        except requests.RequestException as error:
            self._rest()
            kind = type(error).__name__
            raise BackendUnavailableError(f"{url}: cannot be read ({kind})") from error

    def _of_this_process(self) -> requests.Session:
        if self._session is None or self._session[0] != os.getpid():
            self._session = (os.getpid(), requests.Session())
        return self._session[1]


def _plain(data: object) -> ExitRecord | None:
    """Return what counts of a record: whoever may upload there may have written it."""
    if not isinstance(data, dict):
        return None
    record = ExitRecord.of_json(data)
    times = [value for value in (record.start, record.end) if value is not None]
    if not record.reason or not all(map(math.isfinite, times)):
        return None
    return replace(record, reason=one_line(record.reason)[:_REASON_LIMIT])
