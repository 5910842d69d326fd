"""A sweep as a grid: its members by the values of their parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.text import Text

from wlm_tasks.cli import output
from wlm_tasks.cli.looking import varying
from wlm_tasks.model.states import FINAL
from wlm_tasks.state.views import ExperimentView

#: largest grid; what is larger is shown as a list of the members that are not DONE, then the rest
_COLUMNS, _ROWS = 12, 40
#: members in a list
_LISTED: Final = 40


def sweep_grid(members: Sequence[ExperimentView]) -> RenderableType:
    """Draw two swept parameters as a grid, everything else as a list."""
    names = varying(members)
    if len(names) == 2:  # noqa: PLR2004 - a grid has two sides
        down, across = names
        rows = list(dict.fromkeys(str(member.params[down]) for member in members))
        columns = list(dict.fromkeys(str(member.params[across]) for member in members))
        crossed = len(rows) * len(columns) == len(members)
        if crossed and len(columns) <= _COLUMNS and len(rows) <= _ROWS:
            return _grid(members, down, across, columns)
    return _listed(members, names)


def _grid(
    members: Sequence[ExperimentView], down: str, across: str, columns: Sequence[str]
) -> RenderableType:
    corner = output.clean(f"{down} \\ {across}")
    values = [output.clean(value) for value in columns]
    table = output.new_table(corner, *values)
    lines: dict[str, list[Text]] = {}
    for member in members:
        state = output.state(member.state)
        state.plain = state.plain.lower()
        lines.setdefault(str(member.params[down]), []).append(state)
    for value, cells in lines.items():
        table.add_row(output.cell(value, "bold"), *cells)
    return table


def _listed(members: Sequence[ExperimentView], names: Sequence[str]) -> RenderableType:
    params = [output.clean(name) for name in names]
    about = ["REASON"] if any(member.reason for member in members) else []
    table = output.new_table(
        "ID", *params, "STATE", "TOOK", *about, right=("TOOK",), cut=(*params, "REASON")
    )
    shown = list(members)
    if len(shown) > _LISTED:
        shown.sort(key=lambda member: (member.state == "DONE", member.state not in FINAL))
        shown = shown[:_LISTED]
    for member in shown:
        took = ""
        if member.ended_at is not None:
            took = output.duration(member.ended_at - member.created_at)
        table.add_row(
            member.id,
            *(output.cell(member.params.get(name)) for name in names),
            output.state(member.state),
            took,
            *(output.cell(member.reason) for _ in about),
        )
    hidden = len(members) - len(shown)
    if not hidden:
        return table
    return Group(table, Text(f"... and {hidden:,} more; all: wlm ls --sweep ID --all", style="dim"))
