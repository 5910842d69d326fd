"""How soon one experiment on an idle system is done, and how soon the end of a job is noticed.

Experiments are handed in one after another. What counts is the database's own clock: from the
acceptance of an experiment (`created_at`) to its end (`ended_at`); the client's clock around the
call and a close wait for the row stands beside it. A bare Celery chain of four tasks is timed from
its send to its line in the ledger, in the same run and on the same kind of worker.

The end of a job on the site `local` is timed from the job's exit record, which its guard writes,
to the end of the step `monitor` in its row; both are clocks of this host.
"""

from __future__ import annotations

import statistics
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import rich
from rich.table import Table

from benchmarks import ours, theirs
from benchmarks.chains import SETUPS
from benchmarks.rig import DATABASES, PREFORK, Services, services, watch
from benchmarks.work import NOOP, QUICK
from services.processes import Process
from wlm_tasks.model.states import JobRecord
from wlm_tasks.model.steps import StepName

WARM: Final = 5
#: seconds between an end and the next start, on both sides, so that messages are acknowledged
PAUSE_S: Final = 0.05
#: asked for: at most so many times the bare chain and so many milliseconds more
TIMES_BARE, MORE_MS = 2.0, 50.0
#: asked for: milliseconds from the end of a job to its being noticed
NOTICED_MS: Final = 500.0


@dataclass(frozen=True)
class Latencies:
    """Latencies of one set-up in milliseconds: by the rows, or the ledger, and by the client."""

    name: str
    own: list[float]
    client: list[float]


def run_bare(stand: Services, count: int) -> Latencies:
    """Bare chains one at a time, from the send to the line in the ledger."""
    with theirs.system(stand, PREFORK) as system:
        system.warm_up(WARM)
        pairs = [_one_bare(system, WARM + number) for number in range(count)]
    return Latencies("bare chain, four tasks", *_columns(pairs))


def _one_bare(system: theirs.System, number: int) -> tuple[float, float]:
    time.sleep(PAUSE_S)
    sent, start = time.time(), time.perf_counter()
    system.send(range(number, number + 1))
    watch(system.process, lambda: number in system.finished(), f"chain {number}")
    waited = time.perf_counter() - start
    return 1000 * (system.finished()[number] - sent), 1000 * waited


def run_ours(stand: Services, name: str, database: str, count: int, *, carry_on: bool) -> Latencies:
    """Experiments that do nothing, one at a time, from acceptance to DONE."""
    with (
        ours.system(stand, database, carry_on=carry_on) as system,
        system.start("control"),
        system.start_worker(PREFORK) as process,
    ):
        system.warm_up(NOOP, WARM, process)
        pairs = [_one_of_ours(system, process) for _ in range(count)]
    return Latencies(name, *_columns(pairs))


def _one_of_ours(system: ours.System, process: Process) -> tuple[float, float]:
    time.sleep(PAUSE_S)
    start = time.perf_counter()
    handle = system.client.schedule(NOOP)
    view = system.wait_closely(handle.id, process)
    waited = time.perf_counter() - start
    return 1000 * ((view.ended_at or 0.0) - view.created_at), 1000 * waited


def _columns(pairs: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [own for own, _client in pairs], [client for _own, client in pairs]


def run_jobs(stand: Services, database: str, count: int) -> list[float]:
    """Milliseconds from the end of a local job to its being noticed, one job at a time."""
    with (
        ours.system(stand, database, carry_on=True) as system,
        system.start("control"),
        system.start_worker(PREFORK) as process,
    ):
        system.warm_up(QUICK, WARM, process)
        return [_one_job(system, process) for _ in range(count)]


def _one_job(system: ours.System, process: Process) -> float:
    time.sleep(PAUSE_S)
    handle = system.client.schedule(QUICK)
    system.wait_closely(handle.id, process)
    [job] = system.store.views.jobs(handle.id)
    [step] = [one for one in handle.steps if one.name is StepName.MONITOR]
    if job.state is not JobRecord.SUCCEEDED or job.ended_at is None or step.ended_at is None:
        raise RuntimeError(f"{handle.id}: its job is {job.state}, its step {step.state}")
    return 1000 * (step.ended_at - job.ended_at)


def measure(count: int) -> Iterator[Latencies]:
    """The bare chain, then every set-up of ours."""
    with services() as stand:
        yield run_bare(stand, count)
        for name, database, carry_on, _target in SETUPS:
            yield run_ours(stand, name, database, count, carry_on=carry_on)


def measure_jobs(count: int) -> Iterator[tuple[str, list[float]]]:
    """Both databases."""
    with services() as stand:
        for database, name in DATABASES.items():
            yield name, run_jobs(stand, database, count)


def table(measured: list[Latencies]) -> Table:
    """Medians and ninth deciles beside what is asked of the median."""
    title = "From acceptance to DONE, milliseconds by the rows"
    shown = Table("set-up", "median", "p90", "median at the client", "asked for", title=title)
    limit = TIMES_BARE * statistics.median(measured[0].own) + MORE_MS
    for one in measured:
        asked = "" if one is measured[0] else f"{limit:.0f}"
        shown.add_row(one.name, *_cells(one.own, statistics.median, _p90), _median(one), asked)
    return shown


def table_of_jobs(measured: list[tuple[str, list[float]]]) -> Table:
    """Medians and the worst beside what is asked of the worst."""
    title = "From the end of a local job to its being noticed, milliseconds"
    shown = Table("database", "median", "max", "asked for", title=title)
    for name, times in measured:
        shown.add_row(name, *_cells(times, statistics.median, max), f"{NOTICED_MS:.0f}")
    return shown


def _cells(times: list[float], *of: Callable[[list[float]], float]) -> list[str]:
    return [f"{one(times):.1f}" for one in of]


def _median(one: Latencies) -> str:
    return f"{statistics.median(one.client):.1f}"


def _p90(times: list[float]) -> float:
    return statistics.quantiles(times, n=10, method="inclusive")[-1]


def add_options(parser: ArgumentParser) -> None:
    """Say how much to run."""
    parser.add_argument("-n", type=int, default=50, help="experiments a set-up (default: 50)")
    parser.add_argument("--jobs", type=int, default=20, help="local jobs (default: 20)")


def run(given: Namespace) -> None:
    """Measure and show."""
    measured = list(measure(given.n))
    rich.print(table(measured))
    rich.print(table_of_jobs(list(measure_jobs(given.jobs))))
