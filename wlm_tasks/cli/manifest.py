"""``wlm manifest``: which files were staged, by their digests."""

from __future__ import annotations

import os
import sys

import click

from wlm_tasks.cli import output
from wlm_tasks.cli.options import each, ids_argument
from wlm_tasks.cli.problems import FINE, NOT_SO
from wlm_tasks.cli.session import Session, pass_session
from wlm_tasks.errors import NotFoundError
from wlm_tasks.handles import ExperimentHandle, SweepHandle


@click.command()
@ids_argument()
@output.output_option(output.TABLE, output.JSON)
@pass_session
def manifest(session: Session, ids: tuple[str, ...], form: str) -> None:
    """Write the SHA-256 of the files that were staged for experiments.

    In the format of sha256sum, whose -c checks them in the experiment's directory. Transfers whose
    files cannot be listed are told, with the exit code 1.
    """

    def one(handle: ExperimentHandle | SweepHandle) -> int:
        if isinstance(handle, SweepHandle):
            raise NotFoundError(
                f"{handle.id}: is a sweep, files are its members'; see: wlm ls --sweep {handle.id}"
            )
        if form == output.JSON:
            output.show_json({"id": handle.id, "staged": output.plain(handle.staged)})
            return FINE
        found = handle.manifest()
        text = found.text
        if sys.stdout.isatty():  # names of files may hold what a terminal takes for commands
            text = output.clean_lines(text)
        click.echo(os.fsencode(text), nl=False)
        for field in found.unlisted:
            output.say(f"{handle.id}: {field} is not listed: its digests were not told or not kept")
        return NOT_SO if found.unlisted else FINE

    each(ids, session, one)
