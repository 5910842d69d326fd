"""``wlm cancel``, ``retry``, ``resume`` and ``clone``."""

from __future__ import annotations

import click

from wlm_tasks.cli import output
from wlm_tasks.cli.carrying import Carrier, wait
from wlm_tasks.cli.hints import hint_if_nobody_works
from wlm_tasks.cli.looking import Watched
from wlm_tasks.cli.options import each, ids_argument
from wlm_tasks.cli.problems import FINE, NOT_SO
from wlm_tasks.cli.session import Session, pass_session
from wlm_tasks.errors import IllegalTransitionError, NotFoundError
from wlm_tasks.handles import ExperimentHandle, SweepHandle
from wlm_tasks.model.states import FINAL, ExperimentState
from wlm_tasks.model.steps import StepName
from wlm_tasks.state.views import Filter

_STEPS = click.Choice([str(name) for name in StepName])


@click.command()
@ids_argument()
@click.option("--wait", "waiting", is_flag=True, help="Wait until the sites have confirmed it.")
@output.output_option()
@pass_session
def cancel(session: Session, ids: tuple[str, ...], waiting: bool, form: str) -> None:
    """Stop experiments and sweeps for good; their jobs are ended.

    Exit code 1 if one had ended otherwise before.
    """

    def one(handle: ExperimentHandle | SweepHandle) -> int:
        before = None if isinstance(handle, SweepHandle) else handle.status
        handle.cancel()
        if waiting:
            with Carrier(session.settings) as carrier:
                wait(
                    Watched.of(session.store, [handle.id]),
                    title=f"cancel {handle.id}",
                    shown=form == output.TABLE,
                    tick=carrier.tick,
                )
        _tell(handle, form, "" if before not in FINAL else " (had ended before)")
        states = _states(handle)
        if ExperimentState.CANCELLING in states and not waiting:
            hint_if_nobody_works(session)
        good = {ExperimentState.CANCELLED, ExperimentState.CANCELLING}
        sweep = isinstance(handle, SweepHandle)
        return FINE if sweep or good.issuperset(states) else NOT_SO

    each(ids, session, one)


@click.command()
@ids_argument()
@click.option("--from", "step", type=_STEPS, help="Begin at this step; by default where it ended.")
@output.output_option()
@pass_session
def retry(session: Session, ids: tuple[str, ...], step: str | None, form: str) -> None:
    """Run experiments again that have ended or are paused; of a sweep the failed members.

    Steps before the one it begins at keep what they did.
    """

    def one(handle: ExperimentHandle | SweepHandle) -> int:
        if isinstance(handle, SweepHandle):
            return _each_member(session, handle, ExperimentState.FAILED, step, form)
        handle.retry(step)
        _tell(handle, form, " again")
        return FINE

    each(ids, session, one)
    hint_if_nobody_works(session)


@click.command()
@ids_argument()
@output.output_option()
@pass_session
def resume(session: Session, ids: tuple[str, ...], form: str) -> None:
    """Let paused experiments go on at the step they paused at; of a sweep the paused members."""

    def one(handle: ExperimentHandle | SweepHandle) -> int:
        if isinstance(handle, SweepHandle):
            return _each_member(session, handle, ExperimentState.PAUSED, None, form)
        if handle.status is not ExperimentState.PAUSED:
            raise IllegalTransitionError(f"{handle.id}: is {handle.status}, expected PAUSED")
        handle.retry()
        _tell(handle, form, " again")
        return FINE

    each(ids, session, one)
    hint_if_nobody_works(session)


@click.command()
@click.argument("experiment_id", metavar="ID")
@click.option("--site", help="Site to run at, instead of the same.")
@click.option("--priority", metavar="P", help="low, normal, high, urgent or 0 to 9.")
@output.output_option()
@pass_session
def clone(
    session: Session, experiment_id: str, site: str | None, priority: str | None, form: str
) -> None:
    """Hand in an experiment once more, as a new one."""
    handle = session.client.get(experiment_id)
    if isinstance(handle, SweepHandle):
        raise NotFoundError(f"{handle.id}: is a sweep, expected an experiment")
    number = int(priority) if priority is not None and priority.isdecimal() else priority
    changes = {"site": site, "priority": number}
    made = handle.clone(**{name: value for name, value in changes.items() if value is not None})
    _tell(made, form, f", a clone of {handle.id}")
    hint_if_nobody_works(session)


def _each_member(
    session: Session, sweep: SweepHandle, state: ExperimentState, step: str | None, form: str
) -> int:
    wanted = Filter(sweep_id=sweep.id, states=[state], limit=None)
    members = session.store.views.list(wanted)
    for view in members:
        ExperimentHandle(session.client, view.id).retry(step)
    if form == output.TABLE:
        click.echo(f"{sweep.id}  {len(members):,} {state.lower()} members again")
    elif form == output.JSON:
        output.show_json(sweep.view)
    else:
        output.show_ids(view.id for view in members)
    return FINE if members else NOT_SO


def _states(handle: ExperimentHandle | SweepHandle) -> set[ExperimentState]:
    return set(handle.status) if isinstance(handle, SweepHandle) else {handle.status}


def _tell(handle: ExperimentHandle | SweepHandle, form: str, what: str) -> None:
    if form == output.JSON:
        output.show_json(handle.view)
    elif form == output.IDS:
        output.show_ids([handle.id])
    elif isinstance(handle, SweepHandle):
        counts = ", ".join(f"{count} {state}" for state, count in sorted(handle.status.items()))
        click.echo(f"{handle.id}  {counts}{what}")
    else:
        click.echo(f"{handle.id}  {handle.status}{what}")
