"""What FTP servers tell of directories (MLSD of RFC 3659, or LIST as of ls) and of times."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from wlm_tasks.errors import StorageRefusedError

#: servers tell times in seconds: a file younger than that may change once more within its second
_YOUNG_S: Final = 10.0
#: longest line that is shown, in characters
_SHOWN: Final = 200
#: a line of ``ls -l``; one blank is between time and name, as a name may begin with more
_LINE: Final = re.compile(
    r"(?P<kind>[a-z-])[rwxsStTlL-]{9}[+.@]? +[0-9]+ +\S+ +\S+ +(?P<size>[0-9]{1,19})(?:, +[0-9]+)?"
    r" +[A-Z][a-z]{2} +[0-9]{1,2} +(?:[0-9]{1,2}:[0-9]{2}|[0-9]{4}) (?P<name>.+)",
    re.DOTALL,
)
_SIZE: Final = re.compile(r"[0-9]{1,19}")
_KINDS: Final = {"-": "file", "d": "dir", "l": "link"}


@dataclass(frozen=True, slots=True)
class Item:
    """What a directory has."""

    name: str
    kind: str  #: ``file``, ``dir``, ``link``, or empty for what is none of these
    size: int
    modified: str = ""  #: the time as MLSD tells it
    unique: str = ""  #: what no other file of the server has, if it tells that


def items(place: str, told: bytes, *, facts: bool) -> Iterator[Item]:
    """Yield what a list names, of MLSD if it has `facts`.

    Raises `StorageRefusedError` for a line that cannot be understood, and for a name that is no
    UTF-8 or could not be asked for.
    """
    for raw in told.split(b"\r\n"):
        line = raw.decode(errors="surrogateescape")
        if not line or (not facts and re.fullmatch(r"total [0-9]+", line)):
            continue
        item = _of_facts(line) if facts else _of_ls(line)
        if item is None or not item.name or set("/\r\n\0") & set(item.name):
            raise StorageRefusedError(
                f"{place}: its server lists {line[:_SHOWN]!r}, expected a line of"
                f" {'MLSD' if facts else 'ls -l'} with a name that FTP can carry"
            )
        if item.name in {".", ".."}:
            continue
        if any("\udc80" <= letter <= "\udcff" for letter in item.name):
            raise StorageRefusedError(f"{place}: has {item.name!r}, expected names in UTF-8")
        yield item


def _of_facts(line: str) -> Item | None:
    words, _blank, name = line.partition(" ")
    facts = {}
    for word in words.split(";"):
        key, _equals, value = word.partition("=")
        facts[key.lower()] = value
    kind = facts.get("type", "").lower()
    size = facts.get("size", "0" if kind != "file" else "")
    if kind in {"cdir", "pdir"}:
        name, size = ".", "0"
    if not name or not kind or not _SIZE.fullmatch(size):
        return None
    if "slink" in kind or "symlink" in kind:
        kind = "link"
    kind = kind if kind in _KINDS.values() else ""
    return Item(name, kind, int(size), facts.get("modify", ""), facts.get("unique", ""))


def _of_ls(line: str) -> Item | None:
    match = _LINE.fullmatch(line)
    if match is None:
        return None
    kind = _KINDS.get(match["kind"], "")
    name = match["name"].partition(" -> ")[0] if kind == "link" else match["name"]
    return Item(name, kind, int(match["size"]))


def young(modified: str) -> bool:
    """Whether a time such as 20261128203000 (RFC 3659, section 2.3) was a moment ago."""
    try:
        then = datetime.strptime(modified[:14], "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return True
    return time.time() - then.timestamp() < _YOUNG_S
