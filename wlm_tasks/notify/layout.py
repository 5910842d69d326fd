"""Text that is pleasant to read in 78 columns: times, spans, paragraphs, columns. Pure."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final

from wlm_tasks.model.checks import mask, one_line

#: columns of a line: what RFC 5322 asks for, minus room for a reader's "> "
WIDTH: Final = 76
#: how much of a text is looked at
_LOOKED_AT: Final = 4096
#: a blank at which no line may end; `released` makes a plain one of it
HOLD: Final = "\N{NO-BREAK SPACE}"
#: widest command that has its comment behind it
_COMMAND: Final = 44
_MINUTE: Final = 60
_HOUR: Final = 3600
_DAY: Final = 86_400


def clean(value: object, limit: int = 300) -> str:
    """Return a value that strangers wrote as one printable line, passwords hidden, not too long."""
    text = one_line(mask(" ".join(str(value)[:_LOOKED_AT].split())))
    return cut(text, limit)


def cut(text: str, limit: int) -> str:
    """Return `text` in at most `limit` columns."""
    return text if len(text) <= limit else f"{text[: limit - 2].rstrip()}.."


def moment(at: float) -> str | None:
    """Return a time for people, None for one that cannot be."""
    try:
        return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d{HOLD}%H:%M:%S}{HOLD}UTC"
    except (OverflowError, ValueError, OSError):
        return None


def clock(at: float) -> str:
    """Return the time of day alone, dashes for a time that cannot be."""
    return (moment(at) or f"{'-' * 10} {'-' * 8}")[11:19]


def iso(at: float) -> str | None:
    """Return a time for programs, None for one that cannot be."""
    try:
        return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    except (OverflowError, ValueError, OSError):
        return None


def span(seconds: float) -> str:
    """Return how long something took, in the two largest units."""
    if not math.isfinite(seconds):
        return "a time unknown"
    whole = max(0, round(seconds))
    if whole < _MINUTE:
        return f"{whole}{HOLD}s"
    parts = (whole // _DAY, whole % _DAY // _HOUR, whole % _HOUR // _MINUTE, whole % _MINUTE)
    named = list(zip(parts, ("d", "h", "min", "s"), strict=True))
    first = next(i for i, (number, _unit) in enumerate(named) if number)
    return HOLD.join(f"{number}{HOLD}{unit}" for number, unit in named[first : first + 2] if number)


def released(text: str) -> str:
    """Return a finished text with plain blanks alone."""
    return text.replace(HOLD, " ")


def count(number: int, noun: str, nouns: str = "") -> str:
    """Return a number with its noun."""
    return f"{number} {noun if number == 1 else nouns or f'{noun}s'}"


def listing(names: Sequence[str], limit: int = 8) -> str:
    """Return names with commas between them, and how many there are beyond `limit`."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def paragraph(text: str, indent: str = "", hang: str | None = None) -> str:
    """Return a text in lines of `WIDTH`."""
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent if hang is None else hang,
        break_on_hyphens=False,
    )


def pairs(rows: Iterable[tuple[str, str]]) -> str:
    """Return names with what belongs to each of them, one below the other."""
    known = [(name, text) for name, text in rows if text]
    wide = max((len(name) for name, _text in known), default=0) + 2
    lines = [paragraph(text, f"  {name:<{wide}}", " " * (wide + 2)) for name, text in known]
    return "\n".join(lines)


def columns(rows: Sequence[Sequence[str]], limits: Sequence[int]) -> str:
    """Return a table; `limits` are the widest its columns may be, but the last, which is wrapped.

    A row has one cell more than there are limits.
    """
    widths = [max(min(limit, max(len(r[i]) for r in rows)), 1) for i, limit in enumerate(limits)]
    left = 2 + sum(width + 2 for width in widths)
    lines = []
    for *cells, last in rows:
        shown = [cut(cell, width).ljust(width) for cell, width in zip(cells, widths, strict=True)]
        begin = "".join(f"{cell}  " for cell in shown)
        lines.append(paragraph(last, f"  {begin}", " " * left) if last else f"  {begin}".rstrip())
    return "\n".join(lines)


def commands(rows: Sequence[tuple[str, str]]) -> str:
    """Return commands to copy, each with what it tells as a comment."""
    short = [len(command) for command, _why in rows if len(command) <= _COMMAND]
    wide = max(short, default=0)
    lines = [
        f"  {command:<{wide}}  # {why}" if len(command) <= wide else f"  # {why}\n  {command}"
        for command, why in rows
    ]
    return "\n".join(lines)
