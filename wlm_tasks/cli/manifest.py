"""``wlm manifest``: which files were staged, by their digests."""

from __future__ import annotations

import os
import sys

import click

from wlm_tasks.cli import output
from wlm_tasks.cli.options import each, ids_argument
from wlm_tasks.cli.session import Session, pass_session
from wlm_tasks.errors import NotFoundError
from wlm_tasks.handles import ExperimentHandle, SweepHandle


@click.command()
@ids_argument()
@output.output_option(output.TABLE, output.JSON)
@pass_session
def manifest(session: Session, ids: tuple[str, ...], form: str) -> None:
    """Write the SHA-256 of the files that were staged for experiments.

    In the format of sha256sum, whose -c checks them in the experiment's directory.
    """

    def one(handle: ExperimentHandle | SweepHandle) -> None:
        if isinstance(handle, SweepHandle):
            raise NotFoundError(
                f"{handle.id}: is a sweep, files are its members'; see: wlm ls --sweep {handle.id}"
            )
        if form == output.JSON:
            output.show_json({"id": handle.id, "staged": output.plain(handle.staged)})
            return
        text = handle.manifest()
        if sys.stdout.isatty():  # names of files may hold what a terminal takes for commands
            text = output.clean_lines(text)
        click.echo(os.fsencode(text), nl=False)

    each(ids, session, one)
