"""Showing things: tables for people, JSON and ids for programs.

Whatever users or programs wrote passes `clean` or becomes JSON before it is shown: no markup of
rich's and no control character of a terminal's gets through.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final

import click
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from wlm_tasks.model.checks import one_line
from wlm_tasks.model.fields import Priority

TABLE, JSON, IDS = "table", "json", "ids"
#: width of what goes into a pipe or a file: nothing is cut off there
_ENDLESS: Final = 4000

_STYLES: Final = {
    "DONE": "green",
    "SUCCEEDED": "green",
    "FAILED": "bold red",
    "LOST": "bold red",
    "REJECTED": "bold red",
    "CANCELLED": "magenta",
    "CANCELLING": "magenta",
    "PAUSED": "bold yellow",
    "BACKOFF": "yellow",
    "RUNNING": "bold cyan",
    "WATCHING": "bold cyan",
    "SUBMITTED": "cyan",
    "PREPARING": "cyan",
    "FINISHING": "cyan",
    "PENDING": "cyan",
    "QUEUED": "dim",
    "READY": "dim",
    "HELD": "dim",
    "WAITING": "dim",
}
#: how programs colour their output
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_UNITS: Final = ((_DAY, "d", _HOUR, "h"), (_HOUR, "h", _MINUTE, "min"), (_MINUTE, "min", 1, "s"))
_TENTHS_BELOW_S: Final = 10


def output_option(*choices: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option ``-o`` with all formats, or with those given."""
    return click.option(
        "-o",
        "--output",
        "form",
        type=click.Choice(choices or (TABLE, JSON, IDS)),
        default=TABLE,
        help="What to print: a table for people, JSON, or ids alone.",
    )


@cache
def _console(*, err: bool, stream: object) -> Console:  # noqa: ARG001 - the stream is a cache key
    console = Console(stderr=err, highlight=False, markup=False, emoji=False, soft_wrap=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _ENDLESS
    return console


def console(*, err: bool = False) -> Console:
    """Return the console of standard output or standard error."""
    return _console(err=err, stream=sys.stderr if err else sys.stdout)


def clean(value: object) -> str:
    """Return any text as one printable line."""
    return one_line(str(value))


def clean_lines(text: str) -> str:
    """Return the text of a program with its lines and tabs, and nothing else of its controls.

    Of a line that a carriage return begins anew (a progress bar) the last state is kept; colours
    are dropped.
    """
    lines = _COLOUR.sub("", text).replace("\r\n", "\n").split("\n")
    return "\n".join(
        "\t".join(one_line(part) for part in line.rstrip("\r").rpartition("\r")[2].split("\t"))
        for line in lines
    )


def say(text: str) -> None:
    """Write a line for people beside the output: hints and what is going on."""
    click.echo(clean(text), err=True)


def state(value: object) -> Text:
    """Return a state in its colour."""
    return Text(str(value), style=_STYLES.get(str(value), ""))


def counts(states: Mapping[Any, int]) -> Text:
    """Return how many are in which state."""
    present = [key for key in sorted(states) if states[key]]
    parts = [Text.assemble(f"{states[key]:,} ", state(key)) for key in present]
    return Text(", ").join(parts) if parts else Text("nothing under way", style="dim")


def priority(value: int) -> str:
    """Return the name of a priority, if it has one."""
    return next((one.name.lower() for one in Priority if one == value), str(value))


def new_table(*headers: str, right: Sequence[str] = (), cut: Sequence[str] = ()) -> Table:
    """Return an empty table; the columns `right` are set right.

    On a narrow terminal the columns `cut` lose text, whose cells must be made by `cell`.
    """
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for header in headers:
        table.add_column(
            header,
            # rich narrows columns that may wrap before all others; `cell` does not wrap
            no_wrap=header not in cut,
            overflow="ellipsis",
            justify="right" if header in right else "left",
        )
    return table


def cell(value: object, style: str = "") -> Text:
    """Return any text as a cell of one line, cut off where there is no room."""
    return Text(clean("" if value is None else value), style, no_wrap=True, overflow="ellipsis")


def show(*renderables: RenderableType) -> None:
    """Print for people; into a pipe without blanks at the ends of lines."""
    out = console()
    if out.is_terminal:
        out.print(*renderables, sep="\n")
        return
    with out.capture() as captured:
        out.print(*renderables, sep="\n")
    click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def show_json(value: object) -> None:
    """Print one JSON document; dataclasses become tables, times ISO 8601 in UTC."""
    click.echo(json.dumps(plain(value), indent=2))


def show_ids(ids: Iterable[str]) -> None:
    """Print ids, one a line."""
    for one in ids:
        click.echo(one)


def plain(value: object, name: str = "") -> Any:
    """Return plain data for JSON; `name` tells times from other numbers."""
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name), one.name) for one in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, float) and (name == "at" or name.endswith("_at")):
        return iso(value)
    return value if isinstance(value, bool | int | float | None) else str(value)


def iso(at: float) -> str:
    """Return a time in ISO 8601, UTC, with milliseconds."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def clock(at: float) -> str:
    """Return a time as the local clock and calendar show it."""
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def duration(seconds: float) -> str:
    """Return a length of time in at most two units."""
    seconds = max(0.0, seconds)
    if seconds < _TENTHS_BELOW_S:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for large, unit, small, rest_unit in _UNITS:
        if whole >= large:
            rest = whole % large // small
            return f"{whole // large} {unit}" + (f" {rest} {rest_unit}" if rest else "")
    return f"{whole} s"


def ago(at: float | None, now: float) -> str:
    """Return how long ago a time was."""
    if at is None:
        return ""
    seconds = now - at
    if seconds < 1:
        return "now"
    for unit, length, limit in (("s", 1, 120), ("min", _MINUTE, 120), ("h", _HOUR, 48)):
        if seconds < length * limit:
            return f"{seconds // length:.0f} {unit} ago"
    return f"{seconds // _DAY:.0f} d ago"
