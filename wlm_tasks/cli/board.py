"""The live table: experiments while they run, redrawn in place on a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from wlm_tasks.cli import output
from wlm_tasks.cli.looking import Look, Row, Watched
from wlm_tasks.progress import summary

#: Seconds between two looks, and between two redraws on a terminal.
_EVERY_S: Final = 0.25


def table_of(look: Look) -> RenderableType:
    """Draw one look as a table with the counts above it."""
    head = Text.assemble((time.strftime("%H:%M:%S"), "dim"), "  ", output.counts(look.states))
    if not look.rows:
        return head
    table = output.new_table("ID", "NAME", "STATE", "STEP", "TIME", right=("TIME",), cut=("NAME",))
    for row in look.rows:
        table.add_row(*_cells(row, look.now))
    hidden = look.total - len(look.rows)
    more = [Text(f"... and {hidden:,} more", style="dim")] if hidden > 0 else []
    return Group(head, Text(), table, *more)


def _cells(row: Row, now: float) -> tuple[RenderableType, ...]:
    elapsed = row.elapsed(now)
    return (
        row.view.id,
        output.cell(row.label),
        output.state(row.view.state),
        row.doing,
        "" if elapsed is None else output.duration(elapsed),
    )


def follow(
    watched: Watched,
    *,
    draw: Callable[[Look], RenderableType] = table_of,
    until_ended: bool = True,
    tick: Callable[[], None] = lambda: None,
    timeout_s: float | None = None,
) -> Look:
    """Show the table until everything has ended; returns the last look.

    `tick` is called between two looks. Raises `TimeoutError` after `timeout_s` seconds.
    """
    out = output.console()
    redraws = out.is_terminal and not out.is_dumb_terminal
    shown = _Redrawn(out, draw) if redraws else _Lines()
    end = None if timeout_s is None else time.monotonic() + timeout_s
    with shown:
        while True:
            look = watched.look(detailed=isinstance(shown, _Redrawn))
            shown.update(look)
            if until_ended and look.ended:
                return look
            if end is not None and time.monotonic() >= end:
                raise TimeoutError(
                    f"not ended after {timeout_s:g} s: {summary(look.states, look.total)}"
                )
            tick()
            time.sleep(_EVERY_S)


class _Redrawn:
    """Draws in place."""

    def __init__(self, console: Console, draw: Callable[[Look], RenderableType]) -> None:
        self._draw = draw
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="ellipsis")

    def __enter__(self) -> None:
        self._live.__enter__()

    def update(self, look: Look) -> None:
        self._live.update(self._draw(look), refresh=True)

    def __exit__(self, *about: object) -> None:
        self._live.stop()


class _Lines:
    """Prints a line for each change of the counts."""

    def __init__(self) -> None:
        self._told = ""

    def __enter__(self) -> None:
        return

    def update(self, look: Look) -> None:
        text = summary(look.states, look.total) or "nothing under way"
        if text != self._told:
            click.echo(f"{time.strftime('%H:%M:%S')}  {text}")
        self._told = text

    def __exit__(self, *about: object) -> None:
        return
