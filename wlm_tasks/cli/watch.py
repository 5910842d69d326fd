"""``wlm watch``: a live table."""

from __future__ import annotations

import click

from wlm_tasks.cli import output
from wlm_tasks.cli.board import follow, table_of
from wlm_tasks.cli.looking import Watched
from wlm_tasks.cli.options import find, ids_argument
from wlm_tasks.cli.session import Session, pass_session

#: lines of the terminal that are not rows of the table
_AROUND = 5
_ROWS_IN_A_PIPE = 50


@click.command()
@ids_argument(required=False)
@click.option("--once", is_flag=True, help="Look once instead of staying.")
@output.output_option()
@pass_session
def watch(session: Session, ids: tuple[str, ...], once: bool, form: str) -> None:
    """Watch experiments and sweeps until they have ended, or all that is under way.

    Into a pipe goes a line for each change of the counts.
    """
    if form != output.TABLE and not once:
        raise click.UsageError(f"-o {form}: expected --once, too")
    out = output.console()
    rows = max(1, out.height - _AROUND) if out.is_terminal else _ROWS_IN_A_PIPE
    watched = Watched.of(session.store, find(ids, session), rows=rows)
    if not once:
        follow(watched, until_ended=bool(ids))
        return
    look = watched.look()
    if form == output.JSON:
        output.show_json(
            {
                "states": look.states,
                "experiments": [
                    {**output.plain(row.view), "step": row.step and row.step.name}
                    for row in look.rows
                ],
            }
        )
    elif form == output.IDS:
        output.show_ids(row.view.id for row in look.rows)
    else:
        output.show(table_of(look))
