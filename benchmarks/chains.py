"""Experiments a second beside bare Celery chains of as many tasks, in one run.

Both sides get the same broker, the same kind of worker and no task events; a workflow counts when
its own record says that it is finished. Each round runs the bare chain and then every set-up of
ours; ratios are taken within a round, and their median is what counts.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import rich
from rich.table import Table

from benchmarks import bare, ours
from benchmarks.rig import Services, python_path, services, worker
from wlm_tasks.model.experiment import Experiment, Transfer

PREFORK: Final = ("-P", "prefork", "-c", "2")
SOLO: Final = ("-P", "solo")
WARM: Final = 20
#: name, database, carry-on, and the ratio to a bare chain that is asked for
SETUPS: Final = (
    ("each step by message, SQLite", "sqlite", False, 0.7),
    ("each step by message, PostgreSQL", "postgresql", False, 0.5),
    ("carry-on, SQLite", "sqlite", True, 2.0),
    ("carry-on, PostgreSQL", "postgresql", True, 1.2),
)
#: setup, stage_in, submit and stage_out run as tasks; the job ends at once
SWEPT: Final = Experiment(
    "noop",
    "bench",
    ["true {n}"],
    inputs=[Transfer("noop://lab/in", "in")],
    outputs=[Transfer("out", "noop://lab/out-{n}")],
)


@dataclass(frozen=True)
class Measured:
    """Workflows a second of one run, and the ratio to the bare chain of its round."""

    name: str
    rate: float
    ratio: float = 1.0


def run_bare(stand: Services, pool: tuple[str, ...], count: int) -> float:
    """Bare chains a second, from the first being sent to the last being finished."""
    directory = stand.new_directory("bare")
    url, ledger = stand.rabbitmq.new_vhost(), directory / "ledger"
    env = {bare.BROKER: url, bare.LEDGER: str(ledger), **python_path()}
    os.environ |= env
    sender = bare.make_app(url)
    log = directory / "worker.log"
    with worker("benchmarks.bare:app", pool, set(bare.QUEUES), env, log) as process:
        bare.send(sender, range(WARM))
        process.wait_for(lambda: len(bare.finished(ledger)) == WARM, 60, "the warm-up")
        start = time.time()
        bare.send(sender, range(WARM, WARM + count))
        process.wait_for(lambda: len(bare.finished(ledger)) == WARM + count, 600, "all chains")
        end = max(bare.finished(ledger).values())
    sender.close()
    return count / (end - start)


def run_ours(stand: Services, database: str, count: int, *, carry_on: bool) -> float:
    """Experiments a second, from their being handed in as a sweep to the last being DONE."""
    with (
        ours.system(stand, database, carry_on=carry_on) as system,
        system.start_control(),
        system.start_worker(PREFORK) as process,
    ):
        system.client.schedule_sweep(SWEPT, {"n": list(range(WARM))})
        ours.wait_for(system, WARM, process, 60)
        sweep = system.client.schedule_sweep(SWEPT, {"n": list(range(count))})
        ours.wait_for(system, WARM + count, process, 600)
        first, _started, end = system.span([member.id for member in sweep])
    return count / (end - first)


def measure(count: int, rounds: int) -> Iterator[Measured]:
    """Run everything; the bare chain with the better pool is the baseline of each round."""
    with services() as stand:
        for _ in range(rounds):
            rates = {
                "prefork": run_bare(stand, PREFORK, count),
                "solo": run_bare(stand, SOLO, count),
            }
            best = max(rates, key=lambda pool: rates[pool])
            yield Measured(f"bare chain ({best})", rates[best])
            for name, database, carry_on, _target in SETUPS:
                rate = run_ours(stand, database, count, carry_on=carry_on)
                yield Measured(name, rate, rate / rates[best])


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


def main() -> None:
    """Parse, measure, show."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=1000, help="workflows a run (default: 1000)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default: 3)")
    given = parser.parse_args()
    measured: list[Measured] = []
    for one in measure(given.n, given.rounds):
        rich.print(f"{one.name:36} {one.rate:8.1f}/s  ratio {one.ratio:.2f}")
        measured.append(one)
    rich.print(table(measured))


if __name__ == "__main__":
    main()
