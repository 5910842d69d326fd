"""URLs of files on servers of the web, taken apart and checked (RFC 3986)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NoReturn
from urllib.parse import unquote_to_bytes

from wlm_tasks.errors import InvalidPathError
from wlm_tasks.model.checks import show

_URL: Final = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?:(?P<user>[^@/?#]*)@)?"
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^@/:?#\[\]\\]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[^?#]*)(?P<query>\?[^#]*)?",
)
_PORTS: Final = range(1, 65_536)
_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, kw_only=True)
class WebUrl:
    """What a URL says."""

    scheme: str
    host: str  #: without the brackets of an IPv6 address
    port: int | None
    path: str  #: as it stands in the URL, from its first slash on
    query: str  #: with its question mark, which is empty without one
    shown: str  #: for messages: a query may be what lets its bearer in

    @property
    def segments(self) -> list[str]:
        """The decoded parts between the slashes; bytes that are no UTF-8 become surrogates."""
        return [
            unquote_to_bytes(part).decode(errors="surrogateescape")
            for part in self.path.split("/")[1:]
        ]


def web_url(url: str, schemes: frozenset[str], example: str) -> WebUrl:
    """Take a URL apart; raises `InvalidPathError` if it cannot be that of a file."""
    shown = shown_url(url)
    match = _URL.fullmatch(url)
    if match is None or match["scheme"].lower() not in schemes:
        _refuse(shown, f"one such as {example}")
    if match["user"] is not None:
        _refuse(shown, "one without a user: the setting `credentials` says who logs in")
    try:
        match["host"].encode("idna")
    except UnicodeError:
        _refuse(shown, "a host's name whose parts have 1 to 63 characters")
    if match["port"] and int(match["port"]) not in _PORTS:
        _refuse(shown, "a port from 1 to 65535")
    if not url.isprintable() or " " in url or "\\" in url or _ESCAPE.search(url):
        _refuse(shown, "blanks, backslashes, control characters and '%' written as %20, %5C, %25")
    parsed = WebUrl(
        scheme=match["scheme"].lower(),
        host=match["host"].strip("[]"),
        port=int(match["port"]) if match["port"] else None,
        path=match["path"],
        query=match["query"] or "",
        shown=shown,
    )
    if {".", ".."} & set(parsed.segments) or any("\0" in part for part in parsed.segments):
        _refuse(shown, "a path without '.', '..' and NUL")
    if parsed.path.endswith("/") and not parsed.query:
        _refuse(shown, "the place of a file, not of a directory")
    return parsed


def shown_url(url: str) -> str:
    """Return a URL for messages, without what follows its question mark."""
    path, mark, _query = url.partition("?")
    return f"{path}?..." if mark else path


def _refuse(shown: str, expected: str) -> NoReturn:
    raise InvalidPathError(f"URL: got {show(shown)}, expected {expected}")
