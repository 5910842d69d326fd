"""``wlm sites`` and ``wlm site``: how the sites stand, and what operators do about it."""

from __future__ import annotations

from typing import Any, Final

import click
from rich.text import Text

from wlm_tasks.cli import output
from wlm_tasks.cli.problems import NOT_SO
from wlm_tasks.cli.session import Session, pass_session
from wlm_tasks.config import SiteSettings
from wlm_tasks.config.settings import own_user
from wlm_tasks.errors import NotFoundError
from wlm_tasks.model.checks import problem, suggest
from wlm_tasks.model.sites import OPEN, SiteState
from wlm_tasks.state.site_rows import Busy, SiteRow

_STYLES: Final = {SiteState.UP: "green", SiteState.PAUSED: "bold yellow"}
_HEADERS: Final = (
    "SITE", "KIND", "STATE", "SINCE", "RUNNING", "QUEUED", "HELD", "POLLED", "LIMITS", "REASON",
)  # fmt: skip
_NUMBERS: Final = ("RUNNING", "QUEUED", "HELD")
_LIMITS: Final = {
    "max_running": "{} at a time",
    "max_queued": "{} queued",
    "submit_per_s": "{:g} a second",
    "max_connections": "{} connections",
}


@click.command()
@output.output_option()
@pass_session
def sites(session: Session, form: str) -> None:
    """List the configured sites: how they stand, how busy they are, what limits them."""
    configured = session.settings.sites
    if form == output.IDS:
        output.show_ids(sorted(configured))
        return
    store = session.store
    rows, busy = store.sites.all(), store.sites.busy()
    polled, errors = store.polls.times(), store.polls.errors()
    found = [
        _described(
            settings,
            rows.get(name, SiteRow(name=name)),
            busy.get(name, Busy()),
            polled.get(name),
            errors.get(name),
        )
        for name, settings in sorted(configured.items())
    ]
    if form == output.JSON:
        output.show_json(found)
    else:
        _show(found, store.views.now())


def _described(
    settings: SiteSettings, row: SiteRow, busy: Busy, polled_at: float | None, error: str | None
) -> dict[str, Any]:
    paused = row.paused_at is not None
    return {
        "name": settings.name,
        "kind": settings.kind,
        "state": row.shown,
        "since_at": row.paused_at if paused else row.since,
        "reason": reason_of(row) or error,
        "by": row.paused_by if paused else row.told_by,
        "jobs": busy.running + busy.queued,
        "running": busy.running,
        "queued": busy.queued,
        "held": busy.held,
        "account_running": row.running,
        "account_queued": row.queued,
        "account_foreign": row.foreign_jobs,
        "polled_at": polled_at,
        "probe_at": row.probe_at,
        "max_running": settings.max_running,
        "max_queued": settings.max_queued,
        "submit_per_s": settings.submit_per_s,
        "max_connections": settings.max_connections,
        "scratch": settings.directory,
    }


def reason_of(row: SiteRow) -> str | None:
    """Why a site takes no work; what else is wrong with one that is paused comes after."""
    if row.paused_at is None:
        return row.reason
    words = [row.paused_reason or f"paused by {row.paused_by or 'somebody'}"]
    if row.state not in OPEN:
        words.append(f"and {row.state}: {row.reason}")
    return ", ".join(words)


def _show(found: list[dict[str, Any]], now: float) -> None:
    table = output.new_table(*_HEADERS, right=_NUMBERS, cut=("LIMITS", "REASON"))
    for one in found:
        state, foreign = one["state"], one["account_foreign"]
        limits = [text.format(one[name]) for name, text in _LIMITS.items() if one[name]]
        table.add_row(
            one["name"],
            one["kind"],
            Text(str(state), style=_STYLES.get(state, "bold red")),
            "" if state is SiteState.UP else output.ago(one["since_at"], now),
            f"{one['running']}" + (f" +{foreign}" if foreign else ""),
            str(one["queued"]),
            str(one["held"]),
            output.ago(one["polled_at"], now) or "never",
            output.cell(", ".join(limits)),
            output.cell(one["reason"], "red"),
        )
    output.show(table)


@click.group()
def site() -> None:
    """Pause, resume or test a site."""


@site.command()
@click.argument("name")
@click.option("--reason", help="Why, for those who wonder.")
@pass_session
def pause(session: Session, name: str, reason: str | None) -> None:
    """Let no new work go to a site; jobs that are there go on and are brought home.

    Exit code 1 if it was paused before.
    """
    _configured(session, name)
    if not session.store.sites.pause(name, who=own_user(), reason=reason):
        click.echo(f"{name}  was paused before")
        raise click.exceptions.Exit(NOT_SO)
    click.echo(f"{name}  paused")


@site.command()
@click.argument("name")
@pass_session
def resume(session: Session, name: str) -> None:
    """Let work go to a site again: after a pause, or when its trouble is mended.

    Everything that waits for the site goes on by that. Exit code 1 if nothing kept it.
    """
    _configured(session, name)
    held = session.store.sites.busy().get(name, Busy()).held
    if not session.store.sites.resume(name, who=own_user()):
        click.echo(f"{name}  takes work already")
        raise click.exceptions.Exit(NOT_SO)
    session.client.wake()
    steps = "1 held step" if held == 1 else f"{held} held steps"
    click.echo(f"{name}  takes work again" + (f", {steps} may go on" if held else ""))


@site.command("test")
@click.argument("name")
@click.option(
    "--wait",
    "wait_s",
    type=click.FloatRange(min=1),
    default=300.0,
    metavar="SECONDS",
    help="How long a job may take to start and end; else 300.",
)
@output.output_option(output.TABLE, output.JSON)
@pass_session
def test_site(session: Session, name: str, wait_s: float, form: str) -> None:
    """Run a tiny job on a site, step by step, and say what works.

    Needs no database, no worker and no control process. Exit code 1 if something fails.
    """
    _configured(session, name)
    from wlm_tasks.cli.sitetest import run_test  # noqa: PLC0415 - storage comes with it

    if not run_test(session.settings, name, wait_s, form):
        raise click.exceptions.Exit(NOT_SO)


def _configured(session: Session, name: str) -> SiteSettings:
    known = session.settings.sites
    if name not in known:
        raise NotFoundError(problem("site", name, f"a configured site {suggest(name, known)}"))
    return known[name]
