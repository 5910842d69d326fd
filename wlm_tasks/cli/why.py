"""``wlm why``: what experiments wait for, or how they ended."""

from __future__ import annotations

from typing import Final

import click
from rich.text import Text

from wlm_tasks.cli import output
from wlm_tasks.cli.looking import labels
from wlm_tasks.cli.options import each, ids_argument
from wlm_tasks.cli.session import Session, pass_session
from wlm_tasks.handles import ExperimentHandle, SweepHandle
from wlm_tasks.model.states import ExperimentState
from wlm_tasks.state.views import ExperimentView, Filter

#: members of a sweep that are explained, those in need of a person first
_SHOWN: Final = 10
_ORDER: Final = [
    (ExperimentState.PAUSED,),
    (ExperimentState.FAILED,),
    (ExperimentState.CANCELLING, ExperimentState.RUNNING, ExperimentState.SUBMITTED),
    (ExperimentState.PREPARING, ExperimentState.FINISHING),
    (ExperimentState.QUEUED,),
]


@click.command()
@ids_argument()
@output.output_option(output.TABLE, output.JSON)
@pass_session
def why(session: Session, ids: tuple[str, ...], form: str) -> None:
    """Say what experiments wait for, or how they ended."""

    def one(handle: ExperimentHandle | SweepHandle) -> None:
        if isinstance(handle, SweepHandle):
            _of_sweep(session, handle, form)
        elif form == output.JSON:
            output.show_json({"id": handle.id, "state": handle.status, "why": handle.why()})
        else:
            output.show(Text(f"{handle.id}  {output.clean(handle.why())}"))

    each(ids, session, one)


def _of_sweep(session: Session, handle: SweepHandle, form: str) -> None:
    members = _members(session, handle.id)
    if form == output.JSON:
        output.show_json(
            {
                "id": handle.id,
                "states": handle.status,
                "members": [{"id": one.id, "why": one.why()} for one, _label in members],
            }
        )
        return
    counts = ", ".join(f"{count} {state}" for state, count in sorted(handle.status.items()))
    lines = [f"  {one.id}  {name}: {output.clean(one.why())}" for one, name in members]
    output.show(*map(Text, [f"{handle.id}  {counts}", *lines]))


def _members(session: Session, sweep_id: str) -> list[tuple[ExperimentHandle, str]]:
    found: list[ExperimentView] = []
    for states in _ORDER:
        wanted = Filter(sweep_id=sweep_id, states=states, limit=_SHOWN - len(found))
        found += session.store.views.list(wanted)
        if len(found) >= _SHOWN:
            break
    names = labels(found)
    return [
        (ExperimentHandle(session.client, view.id), output.clean(names[view.id])) for view in found
    ]
