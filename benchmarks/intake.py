"""Taking in one large sweep: seconds, CPU and memory of the process that hands it in.

A fresh process makes a client and hands the sweep in (`benchmarks.handing_in`). The time is that
of the call alone, the CPU time that of the process during the call, without the database server's;
the memory is the most that the process ever had.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import rich
from rich.table import Table

from benchmarks import ours
from benchmarks.rig import DATABASES, Services, program, python, python_path, services
from wlm_tasks.model.states import ExperimentState

#: asked for with the default size
SECONDS, MEGABYTES = 20.0, 500.0
DEFAULT: Final = 10_000


@dataclass(frozen=True)
class Measured:
    """One sweep taken in: wall and CPU seconds of the call, peak memory in millions of bytes."""

    name: str
    wall_s: float
    cpu_s: float
    peak_mb: float


def run_one(stand: Services, database: str, count: int) -> Measured:
    """Hand one sweep in from a fresh process, and count what is stored."""
    with ours.system(stand, database, carry_on=True, broker=False) as system:
        words = [python(), "-m", "benchmarks.handing_in", str(count)]
        said = json.loads(program(words, {**system.env, **python_path()}))
        states = system.store.views.sweep(said.pop("sweep")).states
        if states != {ExperimentState.QUEUED: count}:
            raise RuntimeError(f"of {count} members these are stored: {states}")
        steps = sum(system.count("steps").values())
    if steps != 5 * count:
        raise RuntimeError(f"{steps} steps are stored, expected five for each of {count}")
    return Measured(DATABASES[database], **said)


def measure(count: int) -> Iterator[Measured]:
    """Both databases."""
    with services() as stand:
        for database in DATABASES:
            yield run_one(stand, database, count)


def table(measured: list[Measured], count: int) -> Table:
    """One line a database."""
    title = f"A sweep of {count:,}, from the call to its return"
    shown = Table("database", "seconds", "CPU seconds", "peak MB", title=title)
    for one in measured:
        shown.add_row(one.name, f"{one.wall_s:.2f}", f"{one.cpu_s:.2f}", f"{one.peak_mb:.0f}")
    shown.add_section()
    shown.add_row(f"asked for with {DEFAULT:,}", f"{SECONDS:.0f}", "", f"{MEGABYTES:.0f}")
    return shown


def add_options(parser: ArgumentParser) -> None:
    """Say how much to run."""
    parser.add_argument("-n", type=int, default=DEFAULT, help="members (default: 10,000)")


def run(given: Namespace) -> None:
    """Measure and show."""
    rich.print(table(list(measure(given.n)), given.n))
