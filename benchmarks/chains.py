"""Experiments a second beside bare Celery chains of as many tasks, in one run.

Both sides get the same broker, the better of two pools (prefork with two children, solo) and no
task events; a workflow counts when its own record says that it is finished. Each round runs the
bare chain and then every set-up of ours; ratios are taken within a round, and their median is what
counts.
"""

from __future__ import annotations

import statistics
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import rich
from rich.table import Table

from benchmarks import ours, theirs
from benchmarks.rig import PREFORK, SOLO, Services, services
from benchmarks.work import SWEPT

WARM: Final = 20
POOLS: Final = {"prefork": PREFORK, "solo": SOLO}
#: name, database, carry-on, and the ratio to a bare chain that is asked for
SETUPS: Final = (
    ("each step by message, SQLite", "sqlite", False, 0.7),
    ("each step by message, PostgreSQL", "postgresql", False, 0.5),
    ("carry-on, SQLite", "sqlite", True, 2.0),
    ("carry-on, PostgreSQL", "postgresql", True, 1.2),
)


@dataclass(frozen=True)
class Measured:
    """Workflows a second of one run, and the ratio to the bare chain of its round."""

    name: str
    pool: str  #: the better one
    rate: float
    ratio: float = 1.0


def run_bare(stand: Services, pool: tuple[str, ...], count: int) -> float:
    """Bare chains a second, from the first being sent to the last being finished."""
    with theirs.system(stand, pool) as system:
        system.warm_up(WARM)
        start = time.time()
        system.send(range(WARM, WARM + count))
        system.process.wait_for(lambda: len(system.finished()) == WARM + count, 600, "all chains")
        end = max(system.finished().values())
    return count / (end - start)


def run_ours(
    stand: Services, pool: tuple[str, ...], database: str, count: int, *, carry_on: bool
) -> float:
    """Experiments a second, from their being handed in as a sweep to the last being DONE."""
    with (
        ours.system(stand, database, carry_on=carry_on) as system,
        system.start("control"),
        system.start_worker(pool) as process,
    ):
        system.client.schedule_sweep(SWEPT, {"n": list(range(WARM))})
        ours.wait_for(system, WARM, process, 60)
        sweep = system.client.schedule_sweep(SWEPT, {"n": list(range(count))})
        ours.wait_for(system, WARM + count, process, 600)
        first, _started, end = system.span([member.id for member in sweep])
    return count / (end - first)


def measure(count: int, rounds: int) -> Iterator[Measured]:
    """Run everything with both pools; the better bare chain is the baseline of each round."""
    with services() as stand:
        for _ in range(rounds):
            bare = {name: run_bare(stand, pool, count) for name, pool in POOLS.items()}
            yield Measured("bare chain", _best(bare), max(bare.values()))
            for name, database, carry_on, _target in SETUPS:
                ours_ = {
                    pool: run_ours(stand, words, database, count, carry_on=carry_on)
                    for pool, words in POOLS.items()
                }
                rate = max(ours_.values())
                yield Measured(name, _best(ours_), rate, rate / max(bare.values()))


def _best(rates: dict[str, float]) -> str:
    return max(rates, key=lambda pool: rates[pool])


def table(measured: list[Measured]) -> Table:
    """The medians over all rounds."""
    shown = Table("set-up", "a second", "of bare", "asked for", title="Experiments a second")
    for name, _database, _carry_on, target in SETUPS:
        runs = [one for one in measured if one.name == name]
        rate = statistics.median(one.rate for one in runs)
        ratio = statistics.median(one.ratio for one in runs)
        shown.add_row(name, f"{rate:.0f}", f"{ratio:.2f}", f"{target:.1f}")
    best = [one.rate for one in measured if one.name.startswith("bare")]
    shown.add_row("bare chain, four tasks", f"{statistics.median(best):.0f}", "1.00", "")
    return shown


def add_options(parser: ArgumentParser) -> None:
    """Say how much to run."""
    parser.add_argument("-n", type=int, default=1000, help="workflows a run (default: 1000)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default: 3)")


def run(given: Namespace) -> None:
    """Measure and show."""
    measured: list[Measured] = []
    for one in measure(given.n, given.rounds):
        rich.print(f"{one.name:36} {one.pool:8} {one.rate:8.1f}/s  ratio {one.ratio:.2f}")
        measured.append(one)
    rich.print(table(measured))
