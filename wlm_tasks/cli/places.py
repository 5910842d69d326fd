"""``wlm queues``: what waits where."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from wlm_tasks.cli import output
from wlm_tasks.cli.problems import WRONG, report
from wlm_tasks.cli.session import Session, pass_session
from wlm_tasks.errors import ServiceError
from wlm_tasks.model.steps import ALL_QUEUES, QUEUES, StepName


@click.command()
@output.output_option()
@pass_session
def queues(session: Session, form: str) -> None:
    """List the queues: steps that are ready by the rows; messages and consumers by the broker."""
    waiting = session.store.views.waiting()
    messages, trouble = _at_broker(session)
    found: list[dict[str, Any]] = [
        {
            "name": name,
            "steps": [str(step) for step in StepName if QUEUES[step] == name],
            "ready": waiting.get(name, 0),
            **messages.get(name, {"messages": None, "consumers": None}),
        }
        for name in ALL_QUEUES
    ]
    if form == output.JSON:
        output.show_json(found)
    elif form == output.IDS:
        output.show_ids(ALL_QUEUES)
    else:
        _show_queues(found, embedded=session.settings.embedded)
    if trouble is not None:
        report(trouble)
        raise click.exceptions.Exit(WRONG)


def _at_broker(session: Session) -> tuple[dict[str, dict[str, Any]], ServiceError | None]:
    if session.settings.embedded:
        return {}, None
    from wlm_tasks.control.broker import look  # noqa: PLC0415 - without a broker not needed

    try:
        return {one.name: asdict(one) for one in look(session.client.app, ALL_QUEUES)}, None
    except ServiceError as error:
        return {}, error


def _show_queues(found: list[dict[str, Any]], *, embedded: bool) -> None:
    headers = ["QUEUE", "READY"] if embedded else ["QUEUE", "READY", "MESSAGES", "CONSUMERS"]
    table = output.new_table(*headers, "STEPS", right=headers[1:])
    for one in found:
        numbers = [str(one["ready"])]
        if not embedded:
            at_broker = (one["messages"], one["consumers"])
            numbers += ["?" if number is None else str(number) for number in at_broker]
        table.add_row(one["name"], *numbers, ", ".join(one["steps"]) or "submissions")
    output.show(table)
