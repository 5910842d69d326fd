"""``wlm demo``: a small real sweep, carried out here, with a picture of its result."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import click
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

import wlm_tasks
from wlm_tasks.api import Client
from wlm_tasks.cli import output
from wlm_tasks.cli.board import follow
from wlm_tasks.cli.looking import Look, Watched
from wlm_tasks.cli.problems import INTERRUPTED, NOT_SO
from wlm_tasks.config import Settings
from wlm_tasks.control.embedded import running
from wlm_tasks.control.lock import UpLock
from wlm_tasks.errors import ConfigError, InputError
from wlm_tasks.handles import SweepHandle
from wlm_tasks.model.checks import problem
from wlm_tasks.model.experiment import Experiment
from wlm_tasks.model.states import ExperimentState

#: The members of the sweep, close together near the phase transition at 2.27.
TEMPERATURES: Final = (1.5, 1.8, 2.0, 2.1, 2.2, 2.25, 2.3, 2.4, 2.5, 2.7, 3.0, 3.5)
NEEDED: Final = ("numpy", "matplotlib")
#: marks a directory that a demo made and a later one may replace
_MARK: Final = ".made-by-wlm-demo"
_FILES: Final = ("ising.py", "ising.in", "ising.toml", "plot.py")
_PICTURE: Final = "ising.png"


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="wlm-demo",
    metavar="DIR",
    show_default=True,
    help="Directory to make and to work in.",
)
@click.option(
    "--keep", is_flag=True, help="Leave an earlier demo's directory alone: make DIR-2, DIR-3 ..."
)
def demo(out: Path, keep: bool) -> None:
    """Run a real sweep on this machine and draw its result, in a directory of its own.

    Twelve Monte Carlo simulations of the two-dimensional Ising model, around its phase transition.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"the example needs {' and '.join(missing)}; run: pip install 'wlm-tasks[demo]'"
        )
    directory = _fresh(out.absolute(), keep=keep)
    for name in _FILES:
        shutil.copy(_example() / name, directory / name)
    settings = Settings(data_dir=directory / "data")
    _finish(_run(settings, directory), directory)


def _example() -> Path:
    """Return the directory of the example: beside the package, or where pip put it."""
    below = Path("examples", "ising")
    places = (
        Path(wlm_tasks.__file__).parent.parent / below,
        Path(sysconfig.get_path("data"), "share", "wlm_tasks") / below,
    )
    for place in places:
        if (place / "ising.toml").is_file():
            return place
    raise InputError(f"the example is not installed: no {places[1]}")


def _fresh(out: Path, *, keep: bool) -> Path:
    """Make the directory; what an earlier demo left there is replaced, or with `keep` kept."""
    directory, number = out, 1
    while keep and directory.exists():
        number += 1
        directory = out.with_name(f"{out.name}-{number}")
    if directory.exists() and any(directory.iterdir()):
        if not (directory / _MARK).is_file():
            expected = "a directory that is empty or not there"
            raise InputError(problem("--out", str(directory), expected))
        if (holder := UpLock(directory / "data").holder()) is not None:
            raise InputError(f"--out: process {holder} is at work in {directory}")
        shutil.rmtree(directory)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / _MARK).touch()
    return directory


def _run(settings: Settings, directory: Path) -> SweepHandle:
    """Run the sweep in this process until every member has ended."""
    logging.basicConfig(level=logging.ERROR)
    client = Client(settings)
    here = os.path.relpath(directory)
    output.say(f"Twelve simulations of the 2-D Ising model on {os.cpu_count()} cores, in {here}")
    with running(settings):
        sweep = client.schedule_sweep(
            Experiment.from_file(directory / "ising.toml"),
            {"T": TEMPERATURES},
            # the one that has numpy; a job's environment does not know the virtual one of this
            params={"python": sys.executable},
        )
        try:
            follow(Watched.of(client.store, [sweep.id], rows=len(TEMPERATURES)), draw=_table)
        except KeyboardInterrupt:
            output.say(f"Stopped. Go on with: {_with_data(directory)} {_program()} up")
            raise click.exceptions.Exit(INTERRUPTED) from None
    return sweep


def _table(look: Look) -> RenderableType:
    table = output.new_table("TEMPERATURE", "STATE", "STEP", "TIME", right=("TEMPERATURE", "TIME"))
    for row in look.rows:
        elapsed = row.elapsed(look.now)
        table.add_row(
            f"{row.view.params['T']:g}",
            output.state(row.view.state),
            row.doing,
            "" if elapsed is None else output.duration(elapsed),
        )
    head = Text.assemble((time.strftime("%H:%M:%S"), "dim"), "  ", output.counts(look.states))
    return Group(head, Text(), table)


def _finish(sweep: SweepHandle, directory: Path) -> None:
    """Draw the picture and say where everything is."""
    bad = [one for one in sweep if one.status is not ExperimentState.DONE]
    for one in bad:
        click.echo(f"{one.id}: {output.clean(one.why())}", err=True)
    if bad:
        output.say(f"Look at it with: {_with_data(directory)} {_program()} logs {bad[0].id}")
        raise click.exceptions.Exit(NOT_SO)
    drawn = subprocess.run(
        [sys.executable, "plot.py", "results", _PICTURE],
        cwd=directory,
        check=False,
        stderr=subprocess.PIPE,
        text=True,
    )
    if drawn.returncode:
        click.echo(output.clean_lines(drawn.stderr), err=True)
        raise InputError(f"plot.py ended with exit code {drawn.returncode}")
    output.show("", _places(directory), "")
    for line in _next(sweep, directory):
        click.echo(line)  # whole, however narrow the terminal: it is there to be copied


def _places(directory: Path) -> Table:
    here = Path(os.path.relpath(directory))
    table = output.new_table("", "")
    table.show_header = False
    table.add_row("picture", Text(str(here / _PICTURE), style="bold"))
    table.add_row("results", f"{here / 'results'}: T*.json (numbers), T*.log (series)")
    table.add_row("experiment", f"{here / 'ising.toml'} runs ising.py with ising.in")
    return table


def _next(sweep: SweepHandle, directory: Path) -> list[str]:
    wlm = _program()
    return [
        click.style("Try next:", bold=True),
        f"  export {_with_data(directory)}",
        f"  {wlm} show {sweep.id}",
        f"  {wlm} logs {sweep.members[0].id}",
        f"  {wlm} run {shlex.quote(str(Path(os.path.relpath(directory)) / 'ising.toml'))}"
        f" --wait --param T=2.27 --param python={shlex.quote(sys.executable)}",
    ]


def _program() -> str:
    """Return how to call this program from here: its name, or its path if that is not enough."""
    if shutil.which("wlm"):
        return "wlm"
    whole = os.path.realpath(sys.argv[0])
    return shlex.quote(min(os.path.relpath(whole), whole, key=len))


def _with_data(directory: Path) -> str:
    return f"WLM_DATA_DIR={shlex.quote(str(directory / 'data'))}"
