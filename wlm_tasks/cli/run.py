"""``wlm run``: hand in an experiment or a sweep from a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from wlm_tasks.cli import output
from wlm_tasks.cli.carrying import Carrier, wait
from wlm_tasks.cli.ending import show_end
from wlm_tasks.cli.hints import hint_if_nobody_works
from wlm_tasks.cli.looking import Watched
from wlm_tasks.cli.options import pairs, value_of, values_of
from wlm_tasks.cli.planned import show_plans
from wlm_tasks.cli.problems import INTERRUPTED, NOT_SO
from wlm_tasks.cli.session import Session, pass_session
from wlm_tasks.handles import ExperimentHandle, SweepHandle
from wlm_tasks.model.checks import Scalar
from wlm_tasks.model.experiment import Experiment
from wlm_tasks.model.states import ExperimentState
from wlm_tasks.runtime import Runtime
from wlm_tasks.scheduler.submission import Submission, SweepMode, plans


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the command line asks for."""

    file: Path
    params: Mapping[str, Scalar]
    sweep: Mapping[str, list[Scalar]]
    mode: SweepMode
    max_active: int | None
    key: str | None
    changes: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        file: Path,
        *,
        param: Sequence[str],
        sweep: Sequence[str],
        zipped: bool,
        max_active: int | None,
        key: str | None,
        site: str | None,
        priority: str | None,
    ) -> Wanted:
        """Read the options; raises `InvalidParametersError` and `click.UsageError`."""
        if zipped and not sweep:
            raise click.UsageError("--zip: expected --sweep, too")
        if max_active is not None and not sweep:
            raise click.UsageError("--max-active: expected --sweep, too")
        changes = {"site": site, "priority": _number(priority)}
        return cls(
            file=file,
            params={name: value_of(text) for name, text in pairs(param, "--param").items()},
            sweep={name: values_of(text) for name, text in pairs(sweep, "--sweep").items()},
            mode="zip" if zipped else "product",
            max_active=max_active,
            key=key,
            changes={name: value for name, value in changes.items() if value is not None},
        )

    def experiment(self) -> Experiment:
        """Read the file and put in what the command line changes."""
        read = Experiment.from_file(self.file)
        return Experiment.model_validate({**read.model_dump(), **self.changes})

    def submission(self) -> Submission:
        """Return what is to be planned or handed in."""
        return Submission(
            experiment=self.experiment(),
            params=self.params,
            sweep=self.sweep or None,
            sweep_mode=self.mode,
            max_active=self.max_active,
            key=self.key,
        )


_EXAMPLES = """\b
Examples:
  wlm run melt.toml --wait
  wlm run melt.toml --param T=300 --priority urgent --key melt-300
  wlm run melt.toml --sweep T=300,350,400 --sweep p=1,2 --max-active 4
"""


@click.command(epilog=_EXAMPLES)
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@click.option(
    "-p", "--param", multiple=True, metavar="NAME=VALUE", help="Value of a parameter; repeatable."
)
@click.option(
    "--sweep",
    multiple=True,
    metavar="NAME=A,B,C",
    help="Run once for each of these values; repeated: for every combination.",
)
@click.option("--zip", "zipped", is_flag=True, help="Pair the swept values instead of crossing.")
@click.option("--max-active", type=int, metavar="N", help="Most members under way at a time.")
@click.option("--key", help="Your own name for this run; the same key runs nothing twice.")
@click.option("--site", help="Site to run at, instead of the file's.")
@click.option("--priority", metavar="P", help="low, normal, high, urgent or 0 to 9.")
@click.option("--dry-run", is_flag=True, help="Show what would be done; write and send nothing.")
@click.option("--wait", "waiting", is_flag=True, help="Wait for the end; exit 1 if it is not DONE.")
@click.option("--timeout", type=float, metavar="S", help="With --wait: give up after S seconds.")
@output.output_option()
@pass_session
def run(
    session: Session,
    file: Path,
    *,
    dry_run: bool,
    waiting: bool,
    timeout: float | None,
    form: str,
    **given: Any,
) -> None:
    """Hand in the experiment in FILE (TOML, YAML or JSON).

    Values of parameters: true and false, whole and decimal numbers are what they say, all else
    is text; "300" in double quotes is text, too. Without a broker and without `wlm up`, --wait
    does the work in this process.
    """
    if timeout is not None and (not waiting or not timeout > 0):
        raise click.UsageError("--timeout: expected --wait and a number of seconds above 0")
    wanted = Wanted.of(file, **given)
    if dry_run:
        members, planned = plans(Runtime(session.settings), wanted.submission())
        show_plans(members, planned, form)
        return
    handle, known = _schedule(session, wanted)
    if not waiting:
        _show_accepted(session, handle, form, known=known)
    else:
        _wait_for(session, handle, form, timeout)


def _number(priority: str | None) -> str | int | None:
    return int(priority) if priority is not None and priority.isdecimal() else priority


def _schedule(session: Session, wanted: Wanted) -> tuple[ExperimentHandle | SweepHandle, bool]:
    """Hand it in; also tells whether its key was known already."""
    experiment = wanted.experiment()
    before = session.store.views.now()
    handle: ExperimentHandle | SweepHandle
    if wanted.sweep:
        handle = session.client.schedule_sweep(
            experiment,
            wanted.sweep,
            mode=wanted.mode,
            params=wanted.params,
            max_active=wanted.max_active,
            key=wanted.key,
        )
    else:
        handle = session.client.schedule(experiment, params=wanted.params, key=wanted.key)
    return handle, handle.view.created_at < before


def _show_accepted(
    session: Session, handle: ExperimentHandle | SweepHandle, form: str, *, known: bool
) -> None:
    if form == output.JSON:
        output.show_json(handle.view)
    elif form == output.IDS:
        output.show_ids([handle.id])
    else:
        click.echo(_accepted(handle, known=known))
    hint_if_nobody_works(session, besides=", or add --wait")


def _accepted(handle: ExperimentHandle | SweepHandle, *, known: bool) -> str:
    name = output.clean(handle.view.name)
    if isinstance(handle, SweepHandle):
        what = f"{name}, {len(handle):,} members"
    else:
        view = handle.view
        what = f"{name} at site {view.site}, priority {output.priority(view.priority)}"
    if known:
        return f"{handle.id}  was handed in before under this key: {what}"
    return f"{handle.id}  accepted: {what}"


def _wait_for(
    session: Session,
    handle: ExperimentHandle | SweepHandle,
    form: str,
    timeout_s: float | None,
) -> None:
    name = output.clean(handle.view.name)
    if form == output.TABLE:
        output.say(f"{handle.id}  {name}")
    if not session.settings.embedded:
        hint_if_nobody_works(session)
    watched = Watched.of(session.store, [handle.id])
    carrier = Carrier(session.settings)
    try:
        with carrier:
            look = wait(
                watched,
                title=name,
                shown=form == output.TABLE,
                tick=carrier.tick,
                timeout_s=timeout_s,
            )
            show_end(session, handle, form)
    except KeyboardInterrupt:
        later = "its job goes on, the rest once `wlm up` runs" if carrier.working else "it goes on"
        output.say(f"Not waiting any longer; {later}. To stop it: wlm cancel {handle.id}")
        raise click.exceptions.Exit(INTERRUPTED) from None
    if set(look.states) != {ExperimentState.DONE}:
        raise click.exceptions.Exit(NOT_SO)
