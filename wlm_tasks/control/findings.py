"""What `wlm doctor` finds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    name: str
    level: Level
    text: str
    mend: str | None = None  #: what to do about it


def ok(name: str, text: str) -> Finding:
    """All is well."""
    return Finding(name=name, level=Level.OK, text=text)


def warn(name: str, text: str, mend: str | None = None) -> Finding:
    """Work may go on, but somebody should look."""
    return Finding(name=name, level=Level.WARN, text=text, mend=mend)


def fail(name: str, text: str, mend: str | None = None) -> Finding:
    """Work cannot go on like this."""
    return Finding(name=name, level=Level.FAIL, text=text, mend=mend)
