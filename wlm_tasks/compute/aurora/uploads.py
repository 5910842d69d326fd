"""What jobs without a shared scratch left at their site's ``upload_url``: record and output."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, Final

import requests

from wlm_tasks.compute.attempt import ExitRecord
from wlm_tasks.compute.aurora.sandbox import upload_place
from wlm_tasks.errors import BackendUnavailableError
from wlm_tasks.model.checks import one_line

#: seconds for a connection, for a pause between two pieces, and for a whole file
_CONNECT_S: Final = 5.0
_READ_S: Final = 10.0
_ALL_S: Final = 20.0
_RECORD_BYTES: Final = 64 << 10
_REASON_LIMIT: Final = 2000
_TAIL_BYTES: Final = 256 << 10
_PIECE: Final = 64 << 10
_ABSENT: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.GONE})


class Uploads:
    """One site's uploads; may be used by many threads and after a fork."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session: tuple[int, requests.Session] | None = None

    def __bool__(self) -> bool:
        """Whether the site has such a place."""
        return bool(self._url)

    def record(self, token: str) -> dict[str, Any] | None:
        """Return the exit record of an attempt, None if there is none or it makes no sense.

        Raises `BackendUnavailableError` if the server does not tell.
        """
        data = self._end(f"{upload_place(self._url, token)}.exit.json", _RECORD_BYTES)
        try:
            return _plain(json.loads(data)) if data else None
        except (ValueError, RecursionError):
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
            if answer.status_code in _ABSENT:
                return None
            if answer.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return b""  # an empty file
            if not HTTPStatus.OK <= answer.status_code < HTTPStatus.MULTIPLE_CHOICES:
                raise BackendUnavailableError(f"{url}: HTTP {answer.status_code}")
            for piece in answer.iter_content(_PIECE):
                found = (found + piece)[-limit:]
                if time.monotonic() > deadline:
                    raise BackendUnavailableError(f"{url}: not read within {_ALL_S:g} s")
        return found

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
        except requests.RequestException as error:
            kind = type(error).__name__
            raise BackendUnavailableError(f"{url}: cannot be read ({kind})") from error

    def _of_this_process(self) -> requests.Session:
        if self._session is None or self._session[0] != os.getpid():
            self._session = (os.getpid(), requests.Session())
        return self._session[1]


def _plain(data: object) -> dict[str, Any] | None:
    """Return what counts of a record: whoever may upload there may have written it."""
    if not isinstance(data, dict):
        return None
    record = ExitRecord.of_json(data)
    times = [value for value in (record.start, record.end) if value is not None]
    if not record.reason or not all(map(math.isfinite, times)):
        return None
    return {
        "code": record.code,
        "start": record.start,
        "end": record.end,
        "reason": one_line(record.reason)[:_REASON_LIMIT],
    }
