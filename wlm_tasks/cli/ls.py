"""``wlm ls``: the experiments, filtered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import click
from rich.text import Text

from wlm_tasks.cli import output
from wlm_tasks.cli.looking import ACTIVE, Row, rows_of
from wlm_tasks.cli.options import pairs
from wlm_tasks.cli.session import Session, pass_session
from wlm_tasks.errors import NotFoundError
from wlm_tasks.model.checks import show
from wlm_tasks.model.states import FINAL, ExperimentState
from wlm_tasks.state.views import ExperimentView, Filter

#: experiments that are listed unless more are asked for
_DEFAULT: Final = 20
#: from these widths of the terminal on there is room for more columns
_WIDE, _WIDER = 100, 120
_GROUPS: Final = {"ACTIVE": ACTIVE, "ENDED": tuple(FINAL)}


_EXAMPLES: Final = """\b
Examples:
  wlm ls --state active
  wlm ls --state failed --project melts -o ids | wlm retry -
"""


@click.command(epilog=_EXAMPLES)
@click.option(
    "-s", "--state", multiple=True, help="In this state, or `active`, or `ended`; repeatable."
)
@click.option("--owner", help="Of this owner.")
@click.option("--project", help="Of this project.")
@click.option("--site", help="At this site.")
@click.option("--sweep", metavar="ID", help="Members of this sweep.")
@click.option("--name", metavar="TEXT", help="With this text in the name.")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="With this label.")
@click.option(
    "-n", "limit", type=click.IntRange(min=1), metavar="N", help=f"At most N; else {_DEFAULT}."
)
@click.option("--all", "everything", is_flag=True, help="All there are.")
@output.output_option()
@pass_session
def ls(
    session: Session,
    *,
    state: tuple[str, ...],
    sweep: str | None,
    labels: tuple[str, ...],
    limit: int | None,
    everything: bool,
    form: str,
    **fields: str | None,
) -> None:
    """List experiments, the newest first."""
    if everything and limit is not None:
        raise click.UsageError("--all and -n: expected one of them")
    wanted = None if everything else limit or _DEFAULT
    found = session.store.views.list(
        Filter(
            states=read_states(state),
            sweep_id=None if sweep is None else _sweep(session, sweep),
            labels=pairs(labels, "--label"),
            limit=None if wanted is None else wanted + 1,
            **fields,
        )
    )
    more = wanted is not None and len(found) > wanted
    _show(session, found[:wanted], form, more=more)


def _sweep(session: Session, prefix: str) -> str:
    found = session.store.views.find(prefix)
    if not found.startswith("swp-"):
        raise NotFoundError(f"--sweep: got {found!r}, expected the id of a sweep")
    return found


def read_states(texts: Sequence[str]) -> tuple[ExperimentState, ...]:
    """Return the states that the words name, in any case."""
    found: list[ExperimentState] = []
    for text in texts:
        for word in text.upper().split(","):
            if word in _GROUPS:
                found += _GROUPS[word]
            elif word in ExperimentState.__members__:
                found.append(ExperimentState(word))
            else:
                known = ", ".join(one.lower() for one in (*_GROUPS, *ExperimentState))
                raise click.UsageError(f"--state: got {show(word.lower())}, expected: {known}")
    return tuple(dict.fromkeys(found))


def _show(session: Session, found: Sequence[ExperimentView], form: str, *, more: bool) -> None:
    if form == output.JSON:
        output.show_json(found)
    elif form == output.IDS:
        output.show_ids(view.id for view in found)
    elif not found:
        output.say("No experiments.")
    else:
        _show_table(session, found)
        if more:
            output.say(f"... and more; see them with -n {10 * len(found)} or --all")


def _show_table(session: Session, found: Sequence[ExperimentView]) -> None:
    width = output.console().width
    extra = ["PRIORITY", "OWNER", "PROJECT"] if width >= _WIDE else []
    extra += ["REASON"] if width >= _WIDER else []
    headers = ["ID", "NAME", "STATE", "STEP", "SITE", "CREATED", *extra]
    table = output.new_table(*headers, right=("CREATED",), cut=("NAME", "REASON"))
    steps = session.store.views.steps_of([view.id for view in found if not view.final])
    now = session.store.views.now()
    for row in rows_of(found, steps):
        table.add_row(*_cells(row, now, len(extra)))
    output.show(table)


def _cells(row: Row, now: float, extra: int) -> list[Text | str]:
    view = row.view
    cells: list[Text | str] = [
        view.id,
        output.cell(row.label),
        output.state(view.state),
        row.doing,
        view.site,
        output.ago(view.created_at, now),
    ]
    more: list[Text | str] = [
        output.priority(view.priority),
        output.cell(view.owner),
        output.cell(view.project),
        output.cell(view.reason),
    ]
    return cells + more[:extra]
