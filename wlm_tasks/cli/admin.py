"""``wlm db``, ``config`` and ``version``."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from typing import TYPE_CHECKING, Any, Final

import click
from rich.text import Text

from wlm_tasks.cli import output
from wlm_tasks.cli.problems import NOT_SO
from wlm_tasks.cli.session import Session, pass_session

if TYPE_CHECKING:
    from wlm_tasks.state.database import Database

_PACKAGES: Final = ("wlm-tasks", "celery", "kombu", "SQLAlchemy", "pydantic")


@click.group()
def db() -> None:
    """Look after the database."""


@db.command()
@pass_session
def upgrade(session: Session) -> None:
    """Bring the tables to this version's revision; does nothing if they are there."""
    database = _database(session)
    before = database.revision()
    database.upgrade()
    after = database.revision()
    database.close()
    if before == after:
        click.echo(f"is at revision {after} already")
    else:
        click.echo(f"upgraded from {before or 'nothing'} to revision {after}")


@db.command()
@pass_session
def revision(session: Session) -> None:
    """Show the revision of the tables; exit code 1 if this version needs another."""
    database = _database(session)
    found, head = database.revision(), database.head()
    database.close()
    click.echo(f"{found or 'none'} at {database.url.render_as_string()}")
    if found != head:
        output.say(f"this version needs {head}; run: wlm db upgrade")
        raise click.exceptions.Exit(NOT_SO)


def _database(session: Session) -> Database:
    from wlm_tasks.state.database import Database  # noqa: PLC0415 - SQLAlchemy comes with it

    return Database(session.settings.database)


@click.command()
@output.output_option(output.TABLE, output.JSON)
@pass_session
def config(session: Session, form: str) -> None:
    """Show the settings in force, passwords masked, and where they come from."""
    described = session.settings.describe()
    if form == output.JSON:
        output.show_json(described)
        return
    click.echo(f"from {output.clean(described.pop('source'))}")
    lines = [Text.assemble((f"{name} = ", "dim"), value) for name, value in _flat(described)]
    output.show("", *lines)


def _flat(table: Mapping[str, Any], path: str = "") -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for name, value in table.items():
        if isinstance(value, Mapping):
            lines += _flat(value, f"{path}{name}.")
        else:
            lines.append((f"{path}{name}", "-" if value is None else output.clean(value)))
    return lines


@click.command()
@output.output_option(output.TABLE, output.JSON)
def version(form: str) -> None:
    """Show the versions of this package, of Python and of what it stands on."""
    found = {name: _version(name) for name in _PACKAGES} | {"Python": platform.python_version()}
    if form == output.JSON:
        output.show_json(found)
        return
    for name, number in found.items():
        click.echo(f"{name:<12} {number}")


def _version(name: str) -> str:
    try:
        return version_of(name)
    except PackageNotFoundError:
        return "not installed"
