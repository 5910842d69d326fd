"""How long ``wlm ls`` takes with a long history: the whole command, from its start to its end.

The command is a process of its own each time, its output goes into a pipe. What it wrote is
checked: as many experiments as a page has, and all of them in the state that was asked for.
"""

from __future__ import annotations

import json
import re
import statistics
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import rich
from rich.table import Table

from benchmarks import ours
from benchmarks.history import LEAST, fill
from benchmarks.rig import DATABASES, Services, program, services
from services.processes import script

#: words of the command
COMMANDS: Final = (
    ("ls",),
    ("ls", "--state", "running"),
    ("ls", "-n", "20", "-o", "json"),
)
#: experiments a page: the command's default, and what is asked of it above
PAGE: Final = 20
#: asked for with the default size: seconds
SECONDS: Final = 1.0
DEFAULT: Final = 100_000


@dataclass(frozen=True)
class Measured:
    """Wall times of one command on one database, in seconds."""

    command: str
    database: str
    times_s: list[float]


def run_one(system: ours.System, command: tuple[str, ...], times: int) -> list[float]:
    """Seconds of each run of a command, after one that fills the caches."""
    taken = []
    for _ in range(times + 1):
        start = time.perf_counter()
        written = program([script("wlm"), *command], system.env)
        taken.append(time.perf_counter() - start)
        check(command, written)
    return taken[1:]


def check(command: tuple[str, ...], written: str) -> None:
    """Raise unless a whole page was written, in the state asked for."""
    if "json" in command:
        listed = len(json.loads(written))
    else:
        listed = len(re.findall(r"\bexp-[a-z2-7]{10}\b", written))
    running = written.count("RUNNING") if "running" in command else PAGE
    if (listed, running) != (PAGE, PAGE):
        raise RuntimeError(f"wlm {' '.join(command)} listed {listed}:\n{written}")


def measure(count: int, times: int) -> Iterator[Measured]:
    """Every command on both databases."""
    with services() as stand:
        for database in DATABASES:
            yield from run_all(stand, database, count, times)


def run_all(stand: Services, database: str, count: int, times: int) -> Iterator[Measured]:
    """Every command on one database."""
    with ours.system(stand, database, carry_on=True, broker=False) as system:
        fill(system, count)
        for command in COMMANDS:
            taken = run_one(system, command, times)
            yield Measured(f"wlm {' '.join(command)}", DATABASES[database], taken)


def table(measured: list[Measured], count: int) -> Table:
    """One line a command and database."""
    title = f"The command with {count:,} experiments stored, seconds"
    shown = Table("command", "database", "median", "max", "asked for", title=title)
    for one in measured:
        median = f"{statistics.median(one.times_s):.2f}"
        worst = f"{max(one.times_s):.2f}"
        shown.add_row(one.command, one.database, median, worst, f"{SECONDS:.0f}")
    return shown


def add_options(parser: ArgumentParser) -> None:
    """Say how much to run."""
    stored = f"experiments stored, from {LEAST:,} (default: {DEFAULT:,})"
    parser.add_argument("-n", type=int, default=DEFAULT, help=stored)
    parser.add_argument("--times", type=int, default=7, help="runs a command (default: 7)")


def run(given: Namespace) -> None:
    """Measure and show."""
    rich.print(table(list(measure(given.n, given.times)), given.n))
