"""``wlm workers``: who is there, who is missing, and what operators announce."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import click
from rich.text import Text

from wlm_tasks.cli import output
from wlm_tasks.cli.problems import NOT_SO
from wlm_tasks.cli.session import Session, pass_session
from wlm_tasks.config.settings import own_user
from wlm_tasks.errors import NotFoundError
from wlm_tasks.model.checks import problem, suggest
from wlm_tasks.model.workers import WorkerState
from wlm_tasks.state.roster import Absence, WorkerView
from wlm_tasks.state.views import RunningView

_HEADERS: Final = (
    "WORKER", "STATE", "SINCE", "HEARD", "QUEUES", "SLOTS", "LOAD", "RUNS", "WITNESSES", "NOTE",
)  # fmt: skip
_NUMBERS: Final = ("SLOTS", "LOAD", "RUNS")
_STYLES: Final = {
    WorkerState.UP: "green",
    WorkerState.RECOVERED: "green",
    WorkerState.DRAINING: "yellow",
    WorkerState.SUSPECT: "bold yellow",
    WorkerState.DOWN: "bold red",
    WorkerState.LEFT: "dim",
}
#: How long one that has left is listed with ``--all``.
_LEFT_S: Final = 86_400.0
_SPAN: Final = re.compile(r"([0-9]{1,9})(s|m|h|d)")
_SECONDS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_MOST_S: Final = 366 * 86_400.0


def _span(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | None:
    """Read a length of time such as ``90m``."""
    if value is None:
        return None
    found = _SPAN.fullmatch(value)
    seconds = float(found[1]) * _SECONDS[found[2]] if found else 0.0
    if not 0 < seconds <= _MOST_S:
        expected = "a length of time such as 30m, 2h or 3d, at most 366d"
        raise click.BadParameter(f"got {value!r}, expected {expected}")
    return seconds


def _for(*, required: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option(
        "--for",
        "for_s",
        callback=_span,
        required=required,
        metavar="SPAN",
        help="Such as 30m, 2h or 3d.",
    )


@click.group(invoke_without_command=True)
@click.option(
    "-a", "--all", "everybody", is_flag=True, help="Also those that left since yesterday."
)
@output.output_option()
@click.pass_context
@pass_session
def workers(session: Session, ctx: click.Context, *, everybody: bool, form: str) -> None:
    """List the workers: how they stand, who says so, what they run.

    With a command: drain one, announce its absence, or forget it. A worker that is DOWN has
    disappeared, and the administrators are told.
    """
    if ctx.invoked_subcommand is not None:
        return
    roster = session.store.roster
    found = roster.views(left_s=_LEFT_S if everybody else 0.0)
    if form == output.IDS:
        output.show_ids(dict.fromkeys(one.name for one in found))
        return
    runs = _running(session)
    absences = roster.absences()
    if form == output.JSON:
        output.show_json([_plain(one, runs[one.name], absences) for one in found])
        return
    _show(found, runs, absences, session.store.views.now())
    if not found and session.settings.embedded:
        output.say("Embedded: the work is done by `wlm up` itself, without workers.")


def _running(session: Session) -> Mapping[str, list[RunningView]]:
    runs: dict[str, list[RunningView]] = defaultdict(list)
    for one in session.store.views.running():
        runs[one.worker].append(one)
    return runs


def _plain(
    worker: WorkerView, runs: Sequence[RunningView], absences: Mapping[str, Absence]
) -> dict[str, Any]:
    absence = _absence(worker, absences)
    return {
        **{_named(name): value for name, value in asdict(worker).items()},
        "running": [asdict(one) for one in runs],
        "away": None if absence is None else {_named(k): v for k, v in asdict(absence).items()},
    }


def _named(name: str) -> str:
    """Return the name of a value; those of times end in ``_at``."""
    return {"since": "since_at", "drain_until": "drain_until_at", "until": "until_at"}.get(
        name, name
    )


def _absence(worker: WorkerView, absences: Mapping[str, Absence]) -> Absence | None:
    return absences.get(worker.name) or absences.get(worker.host)


def _show(
    found: Sequence[WorkerView],
    runs: Mapping[str, list[RunningView]],
    absences: Mapping[str, Absence],
    now: float,
) -> None:
    table = output.new_table(*_HEADERS, right=_NUMBERS, cut=("QUEUES", "WITNESSES", "NOTE"))
    for one in found:
        table.add_row(
            output.cell(one.name),
            Text(str(one.state), style=_STYLES[one.state]),
            output.ago(one.since, now),
            output.ago(one.heard_at, now),
            output.cell(", ".join(one.queues)),
            str(one.attributes.get("slots", "")),
            f"{one.load}/9",
            str(len(runs.get(one.name, ()))),
            output.cell(_witnesses(one.witnesses)),
            output.cell(_note(one, _absence(one, absences), now)),
        )
    output.show(table)


def _witnesses(said: Mapping[str, str]) -> str:
    """Return who sees it, or what those say that do not."""
    missed = {name: words for name, words in said.items() if words != "alive"}
    if not missed:
        return ", ".join(said) or "none yet"
    return ", ".join(f"{name}: {words}" for name, words in missed.items())


def _note(worker: WorkerView, absence: Absence | None, now: float) -> str:
    words = []
    if absence is not None:
        left = output.duration(absence.until - now)
        why = f": {absence.reason}" if absence.reason else ""
        words.append(f"away for {left} more, says {absence.who}{why}")
    if worker.state is WorkerState.DRAINING and worker.drained_by is not None:
        words.append(f"drained by {worker.drained_by}")
        if worker.drain_until is not None:
            left_s = worker.drain_until - now
            words.append(f"{output.duration(left_s)} left" if left_s > 0 else "overdue")
    elif worker.state in (WorkerState.DOWN, WorkerState.LEFT) and worker.reason:
        words.append(worker.reason)
    return ", ".join(words)


@workers.command()
@click.argument("name")
@output.output_option(output.TABLE, output.JSON)
@pass_session
def show(session: Session, name: str, form: str) -> None:
    """Show all that is known of a worker, and the steps it works on."""
    found = [one for one in session.store.roster.views(left_s=_LEFT_S) if one.name == name]
    if not found:
        raise _unknown(session, name)
    runs, absences = _running(session)[name], session.store.roster.absences()
    if form == output.JSON:
        output.show_json([_plain(one, runs, absences) for one in found])
        return
    now = session.store.views.now()
    for one in found:
        output.show(*_lines(one, runs, _absence(one, absences), now))


def _lines(
    one: WorkerView, runs: Sequence[RunningView], absence: Absence | None, now: float
) -> list[Text]:
    traits = one.attributes
    pairs = {
        "state": f"{one.state}, {output.ago(one.since, now)}",
        "note": _note(one, absence, now),
        "heard": output.ago(one.heard_at, now),
        "host": f"{one.host}, process {one.pid}, incarnation {one.incarnation}",
        "queues": ", ".join(one.queues),
        "slots": f"{traits.get('slots')} ({traits.get('pool')})",
        "machine": f"{traits.get('cpus')} CPUs, {traits.get('memory_mb')} MiB,"
        f" {traits.get('gpus')} GPUs, load {one.load} of 9",
        "can": ", ".join(traits.get("capabilities") or ()),
        "zone": traits.get("zone") or "",
        "version": str(traits.get("version", "")),
        **{f"says {name}": words for name, words in one.witnesses.items()},
    }
    lines = [Text(output.clean(one.name), style="bold")]
    lines += [Text(f"  {key:<14}{output.clean(text)}") for key, text in pairs.items() if text]
    lines += [
        Text(f"  runs          {run.step} of {run.experiment_id}, {output.ago(run.since, now)}")
        for run in runs
    ]
    return lines


@workers.command()
@click.argument("name")
@_for(required=False)
@pass_session
def drain(session: Session, name: str, for_s: float | None) -> None:
    """Let a worker finish what it has and take nothing new; with --for it must be done by then.

    It stays until it is stopped, or resumed. Exit code 1 if it drains already.
    """
    _known(session, name)
    if not session.store.roster.drain(name, who=own_user(), within_s=for_s):
        click.echo(f"{name}  drains already")
        raise click.exceptions.Exit(NOT_SO)
    click.echo(f"{name}  drains")


@workers.command()
@click.argument("name")
@pass_session
def resume(session: Session, name: str) -> None:
    """End a drain, or an announced absence of a worker or a host. Exit code 1 if there is none."""
    roster = session.store.roster
    ended = [roster.undrain(name), roster.end_absence(name)]
    if not any(ended):
        click.echo(f"{name}  neither drains nor is away")
        raise click.exceptions.Exit(NOT_SO)
    click.echo(f"{name}  takes work again" if ended[0] else f"{name}  is expected again")


@workers.command()
@click.argument("name", metavar="NAME|HOST")
@_for(required=True)
@click.option("--reason", help="Why, for those who wonder.")
@pass_session
def maintenance(session: Session, name: str, for_s: float, reason: str | None) -> None:
    """Announce that a worker, or all workers of a host, may be away: nobody is told meanwhile."""
    found = session.store.roster.views(left_s=_LEFT_S)
    known = {one.name for one in found} | {one.host for one in found}
    if name not in known:
        raise NotFoundError(problem("name", name, f"a worker or a host {suggest(name, known)}"))
    session.store.roster.announce(name, who=own_user(), for_s=for_s, reason=reason)
    click.echo(f"{name}  may be away for {output.duration(for_s)}")


@workers.command()
@click.argument("name")
@pass_session
def forget(session: Session, name: str) -> None:
    """Take a worker that has disappeared off the roster: it will not come back.

    Exit code 1 if it is not missing.
    """
    _known(session, name)
    if not session.store.roster.forget_worker(name):
        click.echo(f"{name}  is not missing")
        raise click.exceptions.Exit(NOT_SO)
    click.echo(f"{name}  is off the roster")


def _known(session: Session, name: str) -> None:
    if not any(one.name == name for one in session.store.roster.views()):
        raise _unknown(session, name)


def _unknown(session: Session, name: str) -> NotFoundError:
    known = {one.name for one in session.store.roster.views()}
    return NotFoundError(problem("name", name, f"a worker of the roster {suggest(name, known)}"))
