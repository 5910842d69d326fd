"""What Serf agents cost: per cent of one core each, 20 of them on this machine.

Idle at first, then while each changes a tag every 30 s, about the most that buckets of load make.
"""

from __future__ import annotations

import tempfile
import time
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
import rich
from rich.table import Table

from services.processes import wait_for
from services.serf import PrivateSerf, members_of
from wlm_tasks.cluster.agent import SerfAgent
from wlm_tasks.cluster.tags import LOAD_BUCKETS, Role, WorkerAttributes

#: seconds after the last join until nothing of it is left to do
SETTLE_S: Final = 15.0
CHANGE_EVERY_S: Final = 30.0


@dataclass(frozen=True)
class Measured:
    """CPU of the agents in one round, in per cent of a core."""

    name: str
    mean: float
    most: float
    keeper: float  #: what this process needs for looking after one agent


def started(serf: PrivateSerf, count: int) -> list[SerfAgent]:
    """Agents that all know each other."""
    agents = [serf.started(f"w{n}@host") for n in range(count)]
    for agent in agents:
        wait_for(lambda agent=agent: len(members_of(agent)) == count, 60.0, "all")  # type: ignore[misc]
    time.sleep(SETTLE_S)
    return agents


def measure(agents: list[SerfAgent], name: str, seconds: float, *, change: bool) -> Measured:
    """CPU of each agent meanwhile; `change`: with new tags, spread over the time."""
    processes = [psutil.Process(agent.pid) for agent in agents]
    own, start = time.process_time(), time.perf_counter()
    before = [_cpu_s(process) for process in processes]
    changes = 0
    while (passed := time.perf_counter() - start) < seconds:
        if change and changes < passed * len(agents) / CHANGE_EVERY_S:
            _change(agents, changes)
            changes += 1
        time.sleep(0.05)
    after = [_cpu_s(process) for process in processes]
    own = time.process_time() - own
    shares = [100 * (b - a) / passed for a, b in zip(before, after, strict=True)]
    mean = sum(shares) / len(shares)
    return Measured(name, mean, max(shares), 100 * own / passed / len(agents))


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _change(agents: list[SerfAgent], number: int) -> None:
    which = number % len(agents)
    load = (number // len(agents) + 1) % LOAD_BUCKETS
    told = WorkerAttributes(role=Role.WORKER, name=f"w{which}@host", incarnation="1", load=load)
    agents[which].set_tags(told)


def table(measured: list[Measured]) -> Table:
    """One line a round."""
    columns = ("agents", "mean, % of a core", "most, %", "its keeper in our process, %")
    shown = Table(*columns, title="Serf")
    for one in measured:
        shown.add_row(one.name, f"{one.mean:.2f}", f"{one.most:.2f}", f"{one.keeper:.2f}")
    return shown


def add_options(parser: ArgumentParser) -> None:
    """Say how many and how long to look."""
    parser.add_argument("--agents", type=int, default=20, help="at a time (default: 20)")
    parser.add_argument("--seconds", type=float, default=60.0, help="to look (default: 60)")


def run(given: Namespace) -> None:
    """Measure and show."""
    with tempfile.TemporaryDirectory() as directory:
        serf = PrivateSerf(Path(directory))
        try:
            agents = started(serf, given.agents)
            name = f"{given.agents}"
            rounds = [
                measure(agents, f"{name}, idle", given.seconds, change=False),
                measure(agents, f"{name}, a tag each 30 s", given.seconds, change=True),
            ]
        finally:
            serf.close()
    rich.print(table(rounds))
