"""What is shown once an experiment or a sweep has ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import click
from rich.text import Text

from wlm_tasks.cli import output
from wlm_tasks.cli.looking import labels
from wlm_tasks.errors import WlmError
from wlm_tasks.handles import ExperimentHandle, Output, SweepHandle
from wlm_tasks.model.states import ExperimentState
from wlm_tasks.state.views import Filter

if TYPE_CHECKING:
    from wlm_tasks.cli.session import Session

#: members, outputs and lines of a job's errors that are shown
_SHOWN: Final = 5


def show_end(session: Session, handle: ExperimentHandle | SweepHandle, form: str) -> None:
    """Show how it ended, and where its outputs are or why there are none."""
    if form == output.JSON:
        output.show_json(handle.view)
    elif form == output.IDS:
        output.show_ids([handle.id])
    elif isinstance(handle, SweepHandle):
        _show_sweep(session, handle)
    else:
        _show_experiment(session, handle)


def _show_experiment(session: Session, handle: ExperimentHandle) -> None:
    view = handle.view
    took = output.duration((view.ended_at or session.store.views.now()) - view.created_at)
    output.show(Text.assemble(view.id, "  ", output.state(view.state), f" in {took}"))
    if view.state is ExperimentState.DONE:
        show_outputs(list(handle.outputs.values())[:_SHOWN])
        if not handle.outputs:
            _show_job_output(handle, "stdout")
        return
    click.echo(f"  {output.clean(handle.why())}")
    _show_job_output(handle, "stderr")
    click.echo(f"See: wlm logs {view.id}   Try again: wlm retry {view.id}")


def show_outputs(outputs: Sequence[Output]) -> None:
    """Show where outputs are."""
    for one in outputs:
        place = one.url if one.file is None else str(one.file)
        click.echo(f"  {output.clean(one.path)} -> {output.clean(place)}")


def _show_job_output(handle: ExperimentHandle, stream: str) -> None:
    try:
        job = handle.job
        if job is None:
            return
        text = job.stdout(_SHOWN) if stream == "stdout" else job.stderr(_SHOWN)
    except WlmError:
        # The site is out of reach just now; the experiment's end is the news here.
        return
    for line in output.clean_lines(text).splitlines()[-_SHOWN:]:
        click.echo(f"  | {line}")


def _show_sweep(session: Session, handle: SweepHandle) -> None:
    view = handle.view
    output.show(Text.assemble(view.id, f"  {view.size:,} members: ", output.counts(view.states)))
    failed = Filter(sweep_id=view.id, states=[ExperimentState.FAILED], limit=_SHOWN)
    members = session.store.views.list(failed)
    names = labels(members)
    for member in members:
        reason = output.clean(member.reason or "failed")
        click.echo(f"  {member.id}  {output.clean(names[member.id])}: {reason}")
    if view.states.get(ExperimentState.FAILED):
        click.echo(f"See: wlm ls --sweep {view.id} --state failed   Try again: wlm retry {view.id}")
    else:
        click.echo(f"See: wlm show {view.id}")
