"""What an idle system costs: milliseconds of CPU a second of each process with its children.

A control process and a worker as deployed (with events and heartbeats), and ``wlm up`` embedded.
Each system does an experiment first and one more at the end, so that it is known to be at work in
between. The kernel counts in hundredths of a second: over 20 s one more or less is 0.5 ms a second.
"""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import rich
from rich.table import Table

from benchmarks import ours
from benchmarks.rig import DATABASES, PREFORK, Services, cpu_s, services
from benchmarks.work import NOOP
from services.processes import Process

#: seconds after the first experiment until nothing of it is left to do
SETTLE_S: Final = 5.0
#: what the worker's unit in deploy/ says beside queues, name and slots
DEPLOYED: Final = ("-E", "-l", "WARNING")


@dataclass(frozen=True)
class Measured:
    """One idle process: milliseconds of CPU a second, its children's included."""

    name: str
    ms_per_s: float


def watch_idle(
    system: ours.System, processes: Mapping[str, Process], seconds: float
) -> list[Measured]:
    """CPU of processes that have nothing to do meanwhile; the last of them does the steps."""
    *_, working = processes.values()
    system.warm_up(NOOP, 1, working)
    time.sleep(SETTLE_S)
    start, before = time.perf_counter(), _cpu(processes)
    time.sleep(seconds)
    after, passed = _cpu(processes), time.perf_counter() - start
    handle = system.client.schedule(NOOP)
    system.wait_closely(handle.id, working)
    for name, process in processes.items():
        if not process.running:
            raise RuntimeError(f"{name} has ended:\n{process.tail()}")
    return [Measured(name, 1000 * (after[name] - before[name]) / passed) for name in processes]


def _cpu(processes: Mapping[str, Process]) -> dict[str, float]:
    return {name: cpu_s([process.pid]) for name, process in processes.items()}


def with_broker(stand: Services, database: str, seconds: float) -> list[Measured]:
    """A control process and a worker."""
    kind = DATABASES[database]
    with (
        ours.system(stand, database, carry_on=True) as system,
        system.start("control") as control,
        system.start_worker(PREFORK, options=DEPLOYED) as process,
    ):
        named = {f"control, {kind}": control, f"worker of two slots, {kind}": process}
        return watch_idle(system, named, seconds)


def embedded(stand: Services, seconds: float) -> list[Measured]:
    """Everything in one process."""
    with (
        ours.system(stand, "sqlite", carry_on=True, broker=False) as system,
        system.start("up") as process,
    ):
        return watch_idle(system, {"wlm up, SQLite": process}, seconds)


def measure(seconds: float) -> Iterator[Measured]:
    """With a broker on both databases, then embedded."""
    with services() as stand:
        for database in DATABASES:
            yield from with_broker(stand, database, seconds)
        yield from embedded(stand, seconds)


def table(measured: list[Measured]) -> Table:
    """One line a process."""
    shown = Table("process", "CPU ms a second", title="Idle")
    for one in measured:
        shown.add_row(one.name, f"{one.ms_per_s:.1f}")
    return shown


def add_options(parser: ArgumentParser) -> None:
    """Say how long to look."""
    parser.add_argument("--seconds", type=float, default=20.0, help="to look (default: 20)")


def run(given: Namespace) -> None:
    """Measure and show."""
    rich.print(table(list(measure(given.seconds))))
