"""``wlm show``: all about experiments and sweeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import click
from rich.text import Text

from wlm_tasks.cli import output
from wlm_tasks.cli.grid import sweep_grid
from wlm_tasks.cli.options import each, ids_argument
from wlm_tasks.cli.session import Session, pass_session
from wlm_tasks.errors import WlmError
from wlm_tasks.explain import transfer_text
from wlm_tasks.handles import ExperimentHandle, Output, SweepHandle
from wlm_tasks.model.cleanup import CleanupPolicy
from wlm_tasks.model.states import StepState
from wlm_tasks.model.units import size
from wlm_tasks.state.views import AttemptView, ExperimentView, Filter, JobView, StepView

#: characters beyond which a long name does not push the others aside
_WIDEST: Final = 40
#: digits of a digest that are shown; all of them are in the JSON
_DIGITS: Final = 12
#: attempts that are shown
_ATTEMPTS: Final = 10


@click.command()
@ids_argument()
@output.output_option()
@pass_session
def show(session: Session, ids: tuple[str, ...], form: str) -> None:
    """Show experiments with their steps, jobs and outputs, and sweeps with their members.

    With -o json each id gives one JSON document.
    """
    shown = 0

    def one(handle: ExperimentHandle | SweepHandle) -> None:
        nonlocal shown
        if shown and form == output.TABLE:
            click.echo()
        shown += 1
        if isinstance(handle, SweepHandle):
            _show_sweep(session, handle, form)
        else:
            _show_experiment(session, handle, form)

    each(ids, session, one)


def _show_experiment(session: Session, handle: ExperimentHandle, form: str) -> None:
    if form == output.IDS:
        output.show_ids([handle.id])
        return
    views = session.store.views
    view, steps, why = handle.view, handle.steps, handle.why()
    attempts, jobs = views.attempts(handle.id), views.jobs(handle.id)
    outputs, links = list(handle.outputs.values()), _links(handle)
    if form == output.JSON:
        plain: dict[str, Any] = output.plain(view)
        plain.update(
            why=why,
            steps=output.plain(steps),
            attempts=output.plain(attempts),
            jobs=output.plain(jobs),
            links=links,
            outputs=[{"path": one.path, "url": one.url} for one in outputs],
            staged=output.plain(handle.staged),
        )
        output.show_json(plain)
        return
    now = views.now()
    output.show(_title(view), *_facts(view, now))
    if not view.final or view.reason:
        output.show(Text.assemble(("  why      ", "dim"), output.clean(why)))
    _show_steps(steps, now)
    _show_attempts(steps, attempts)
    _show_jobs(jobs, now)
    for name, url in links.items():
        click.echo(f"{name}: {output.clean(url)}")
    _show_outputs(outputs)


def _links(handle: ExperimentHandle) -> dict[str, str]:
    """Pages of the newest job; none if its site is not one of this host's settings."""
    try:
        return handle.job.links() if handle.job is not None else {}
    except WlmError:
        return {}


def _title(view: ExperimentView) -> Text:
    name = Text(output.clean(view.name), style="bold")
    return Text.assemble(view.id, "  ", name, "  ", output.state(view.state))


def _facts(view: ExperimentView, now: float) -> list[Text]:
    ended = ""
    if view.ended_at is not None:
        ended = f", ended after {output.duration(view.ended_at - view.created_at)}"
    facts = {
        "site": f"{view.site}, priority {output.priority(view.priority)}",
        "created": f"{output.clock(view.created_at)} ({output.ago(view.created_at, now)}){ended}",
        "key": view.key,
        "owner": view.owner,
        "project": view.project,
        "params": ", ".join(f"{name}={value}" for name, value in view.params.items()),
        "labels": ", ".join(f"{name}={value}" for name, value in view.labels.items()),
        "cleanup": _cleanup(view, now),
        "sweep": None if view.sweep_id is None else f"member {view.member} of {view.sweep_id}",
    }
    return [
        Text.assemble((f"  {name:<8} ", "dim"), output.clean(value))
        for name, value in facts.items()
        if value
    ]


def _cleanup(view: ExperimentView, now: float) -> str | None:
    """What has become of its directory on the site, or will; None where it is just kept."""
    if view.removed_at is not None:
        return f"directory removed {output.ago(view.removed_at, now)}"
    failed = f": {view.cleanup_reason}" if view.cleanup_reason else ""
    if view.cleanup is None:
        return f"directory kept{failed}" if failed else None
    if failed:
        return f"directory not removed yet, is tried again{failed}"
    unless = " unless it fails" if view.cleanup == CleanupPolicy.KEEP_ON_FAILURE else ""
    after = f"{output.duration(view.cleanup_after_s)} after" if view.cleanup_after_s else "at"
    return f"directory is removed {after} the end{unless}"


def _show_steps(steps: Sequence[StepView], now: float) -> None:
    table = output.new_table(
        "STEP",
        "STATE",
        "ATTEMPTS",
        "WORKER",
        "STARTED",
        "TOOK",
        right=("ATTEMPTS", "STARTED", "TOOK"),
    )
    for step in steps:
        took = ""
        if step.started_at is not None and step.state is not StepState.WAITING:
            took = output.duration((step.ended_at or now) - step.started_at)
        table.add_row(
            str(step.name),
            output.state(step.state),
            str(step.attempts or ""),
            output.cell(step.worker),
            output.ago(step.started_at, now),
            took,
        )
    output.show("", table)
    for step in steps:
        if moved := transfer_text(step):
            output.show(Text.assemble((f"  {step.name}  ", "dim"), output.clean(moved)))


def _show_attempts(steps: Sequence[StepView], attempts: Sequence[AttemptView]) -> None:
    """Show the attempts of steps that took more than one, the newest last."""
    names = {step.seq: str(step.name) for step in steps if step.attempts > 1}
    shown = [attempt for attempt in attempts if attempt.seq in names][-_ATTEMPTS:]
    if not shown:
        return
    table = output.new_table("ATTEMPT", "BEGAN", "WORKER", "OUTCOME", "REASON", cut=("REASON",))
    for attempt in shown:
        table.add_row(
            names[attempt.seq],
            output.clock(attempt.started_at)[-8:],
            output.cell(attempt.worker),
            output.state(attempt.outcome or "RUNNING"),
            output.cell(attempt.reason),
        )
    output.show("", table)


def _show_jobs(jobs: Sequence[JobView], now: float) -> None:
    if not jobs:
        return
    table = output.new_table(
        "JOB", "STATE", "EXIT", "NATIVE ID", "TOOK", right=("EXIT", "TOOK"), cut=("NATIVE ID",)
    )
    for job in jobs:
        took = ""
        if job.started_at is not None:
            took = output.duration((job.ended_at or now) - job.started_at)
        table.add_row(
            job.token,
            output.state(job.state),
            "" if job.exit_code is None else str(job.exit_code),
            output.cell(job.native_id),
            took,
        )
    output.show("", table)
    click.echo(f"in {output.clean(jobs[-1].workdir)}")


def _show_outputs(outputs: Sequence[Output]) -> None:
    """Show each with its place whole, whatever the terminal's width: it is there to be copied."""
    if not outputs:
        return
    rows = [
        (
            output.clean(one.path),
            _size(one),
            (one.sha256 or "-")[:_DIGITS],
            output.clean(_place(one)),
        )
        for one in outputs
    ]
    wide = min(_WIDEST, max(len(path) for path, *_rest in rows))
    head = f"{'OUTPUT':<{wide}}  {'SIZE':>8}  {'SHA-256':<{_DIGITS}}  PLACE"
    output.show("", Text(head, style="bold"))
    for path, amount, digest, place in rows:
        click.echo(f"{path:<{wide}}  {amount:>8}  {digest:<{_DIGITS}}  {place}")


def _place(one: Output) -> str:
    return one.url if one.file is None else str(one.file)


def _size(one: Output) -> str:
    """What was brought there; of a local file what is there now, as it may be gone again."""
    try:
        if one.file is not None and not one.file.is_dir():
            return size(one.file.stat().st_size)
    except OSError:
        return "-"
    return "-" if one.size is None else size(one.size)


def _show_sweep(session: Session, handle: SweepHandle, form: str) -> None:
    view = handle.view
    if form == output.TABLE:
        most = "" if view.max_active is None else f", at most {view.max_active} at a time"
        now = session.store.views.now()
        output.show(
            Text.assemble(
                view.id, "  ", (output.clean(view.name), "bold"), f"  {view.size:,} members", most
            ),
            Text.assemble(
                ("  created  ", "dim"),
                output.clock(view.created_at),
                f" ({output.ago(view.created_at, now)})",
            ),
            Text.assemble(("  members  ", "dim"), output.counts(view.states)),
        )
    members = session.store.views.list(Filter(sweep_id=view.id, limit=None))
    members.sort(key=lambda member: member.member or 0)
    if form == output.IDS:
        output.show_ids(member.id for member in members)
    elif form == output.JSON:
        output.show_json({**output.plain(view), "members": members})
    else:
        output.show("", sweep_grid(members))
