"""``wlm alerts``: what went wrong, who was told, and whether telling works."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any, Final

import click
from rich.text import Text

from wlm_tasks.cli import output
from wlm_tasks.cli.problems import NOT_SO, WRONG, report
from wlm_tasks.cli.session import Session, pass_session
from wlm_tasks.config.settings import own_user
from wlm_tasks.errors import WlmError
from wlm_tasks.model.notices import Notice, NoticeKind
from wlm_tasks.state.deliveries import DeliveryView
from wlm_tasks.state.incidents import Incident

_INCIDENTS: Final = ("ID", "INCIDENT", "SUBJECT", "SINCE", "ENDED", "ACK", "REASON")
_NOTICES: Final = ("NOTICE", "ABOUT", "AT", "BY", "SENT", "TRIES", "ERROR")


@click.group()
def alerts() -> None:
    """List incidents and notices, say that you look after one, or send a test."""


@alerts.command("ls")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, help="Newest first; else 20.")
@output.output_option(output.TABLE, output.JSON)
@pass_session
def ls(session: Session, limit: int, form: str) -> None:
    """List the incidents, and how the notices went that people were to get."""
    store = session.store
    incidents, sent = store.incidents.latest(limit), store.deliveries.views(limit)
    if form == output.JSON:
        output.show_json(
            {
                "incidents": [asdict(one) for one in incidents],
                "notices": [_plain(one) for one in sent],
                "oldest_unsent_s": store.deliveries.oldest_s(),
            }
        )
        return
    now = store.views.now()
    _show_incidents(incidents, now)
    output.show(Text(""))
    _show_notices(sent, now)
    oldest_s = store.deliveries.oldest_s()
    if oldest_s is not None:
        output.say(
            f"The oldest notice that has not gone out waits for {output.duration(oldest_s)}."
        )


def _plain(view: DeliveryView) -> dict[str, Any]:
    notice = view.notice
    return {
        "key": notice.key,
        "kind": notice.kind,
        "subject": notice.subject,
        "at": notice.at,
        "notifier": view.notifier,
        "due_at": view.due_at,
        "tries": view.tries,
        "sent_at": view.sent_at,
        "refused_at": view.refused_at,
        "error": view.error,
    }


def _show_incidents(found: list[Incident], now: float) -> None:
    if not found:
        output.show(Text("No incidents."))
        return
    table = output.new_table(*_INCIDENTS, right=("ID",), cut=("REASON",))
    for one in found:
        table.add_row(
            str(one.id),
            Text(one.kind.lower(), style="dim" if one.closed_at else "bold red"),
            output.cell(one.subject or "all workers"),
            output.ago(one.opened_at, now),
            output.ago(one.closed_at, now) or "open",
            output.cell(one.acked_by or ""),
            output.cell(one.reason),
        )
    output.show(table)


def _show_notices(found: list[DeliveryView], now: float) -> None:
    if not found:
        output.show(Text("No notices."))
        return
    table = output.new_table(*_NOTICES, right=("TRIES",), cut=("ERROR",))
    for one in found:
        notice = one.notice
        table.add_row(
            notice.kind.lower().replace("_", " "),
            output.cell(notice.subject),
            output.ago(notice.at, now),
            one.notifier,
            _sent(one, now),
            str(one.tries),
            output.cell(one.error, "red"),
        )
    output.show(table)


def _sent(view: DeliveryView, now: float) -> Text:
    if view.sent_at is not None:
        return Text(output.ago(view.sent_at, now))
    if view.refused_at is not None:
        return Text("refused", style="bold red")
    return Text("waits", style="yellow")


@alerts.command()
@click.argument("incident", type=click.IntRange(min=1), metavar="ID")
@pass_session
def ack(session: Session, incident: int) -> None:
    """Say that you look after an incident. Exit code 1 if somebody does, or there is no such."""
    if not session.store.incidents.acknowledge(incident, own_user()):
        click.echo(f"{incident}  is no incident, or somebody looks after it")
        raise click.exceptions.Exit(NOT_SO)
    click.echo(f"{incident}  is looked after by {own_user()}")


@alerts.command()
@pass_session
def test(session: Session) -> None:
    """Send a test by every configured notifier, from here and now; needs no control process.

    Exit code 2 if one of them fails.
    """
    from wlm_tasks import plugins  # noqa: PLC0415 - notifiers come with what they need
    from wlm_tasks.control.mailing import letterhead  # noqa: PLC0415 - the same
    from wlm_tasks.notify.words import compose  # noqa: PLC0415 - the same

    now = time.time()
    notice = Notice(key=f"test:{now:.3f}", kind=NoticeKind.TEST, subject=own_user(), at=now)
    message = compose([notice], letterhead(session.settings))
    failed = False
    for name, notifier in plugins.notifiers(session.settings.alerts).items():
        try:
            notifier.send(message)
        except WlmError as error:
            failed = True
            report(error)
        else:
            click.echo(f"{name}  sent {message.message_id}")
    if failed:
        raise click.exceptions.Exit(WRONG)
