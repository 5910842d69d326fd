"""A whole installation for tests: broker, database, workers, control, and a ledger of payloads."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from services.postgresql import PrivatePostgreSQL
from services.processes import Process, children, script, wait_for
from services.rabbitmq import PrivateRabbitMQ
from services.service import Service
from wlm_tasks.api import Client
from wlm_tasks.config import load
from wlm_tasks.control.queues import declare
from wlm_tasks.handles import SweepHandle
from wlm_tasks.model.experiment import Experiment

ALL_QUEUES: Final = "envsetup,staging,jobsub,monitor,scheduler"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What an installation consists of."""

    workers: Sequence[str] = (ALL_QUEUES,)  #: the queues of each worker
    concurrency: int = 2
    pool: str = "prefork"
    options: Sequence[str] = ()  #: further options of the workers
    controls: int = 1
    database_url: str | None = None  #: default: SQLite in the data directory
    settings: str = ""  #: further lines of wlm.toml, before the sites
    local: str = "max_running = 8"  #: further lines of the site `local`


@dataclass
class Fleet(Service):
    """Starts the processes of a layout, restarts what dies, and keeps the ledger.

    Everything lives below `directory`. `vhost_url` is the broker's URL.
    """

    directory: Path
    vhost_url: str
    layout: Layout = field(default_factory=Layout)
    supervised: bool = True
    restarts: int = 0

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.ledger = self.directory / "ledger"
        self.ledger.touch()
        self.config = self.directory / "wlm.toml"
        self.config.write_text(self._toml())
        self.processes: dict[str, Process] = {}
        self._watching = threading.Event()
        self._lock = threading.Lock()
        # One that reads the broker's URL by reference, as an installation would.
        self.environ = {**os.environ, "WLM_CONFIG": str(self.config), "FLEET_MQ": self.vhost_url}
        if self.layout.database_url:
            self.environ["FLEET_DB"] = self.layout.database_url
        self.client = Client(load(self.config, self.environ))

    def _toml(self) -> str:
        lines = ['broker_url = "env:FLEET_MQ"', f'data_dir = "{self.directory / "data"}"']
        if self.layout.database_url:
            lines.append('database_url = "env:FLEET_DB"')
        lines.append(self.layout.settings)
        scratch = self.directory / "scratch"
        lines += ["[sites.local]", 'kind = "local"', f'scratch = "{scratch}"', self.layout.local]
        lines += ["[sites.noop]", 'kind = "noop"', f'scratch = "{scratch}"']
        return "\n".join(lines) + "\n"

    # -- life ------------------------------------------------------------------------------

    def start(self) -> None:
        """Make the tables and queues and start every process; waits until workers are ready."""
        self.client.store.database.upgrade()
        declare(self.client.app)
        for number in range(len(self.layout.workers)):
            self.start_worker(number)
        for number in range(self.layout.controls):
            self.start_control(number)
        for name, process in list(self.processes.items()):
            if name.startswith("worker"):
                process.wait_for_output("ready.", 40)
        if self.supervised:
            threading.Thread(target=self._supervise, daemon=True).start()

    def start_worker(self, number: int) -> None:
        """Start worker `number` of the layout."""
        name = f"worker{number}"
        argv = [script("celery"), "-A", "wlm_tasks", "worker", "-n", f"{name}@%h"]
        argv += ["-Q", self.layout.workers[number], "-c", str(self.layout.concurrency)]
        argv += ["-P", self.layout.pool, "-l", "INFO", "--without-gossip", "--without-mingle"]
        argv += self.layout.options
        self._spawn(name, argv)

    def start_control(self, number: int) -> None:
        """Start control process `number`."""
        self._spawn(f"control{number}", [script("wlm"), "control"])

    def _spawn(self, name: str, argv: Sequence[str]) -> None:
        process = Process(
            argv, log=self.directory / f"{name}.log", env=self.environ, cwd=self.directory
        )
        with self._lock:
            self.processes[name] = process

    def _supervise(self) -> None:
        """Start again what has died, as systemd would."""
        while not self._watching.wait(0.1):
            for name, process in list(self.processes.items()):
                if not process.running and not self._watching.is_set():
                    self.restarts += 1
                    process.kill_group()
                    number = int(name[-1])
                    start = self.start_worker if name.startswith("worker") else self.start_control
                    start(number)

    def close(self) -> None:
        """End every process at once."""
        self._watching.set()
        for process in list(self.processes.values()):
            process.kill_group()
        self.client.close()

    def logs(self, lines: int = 40) -> str:
        """The last lines of every process, for a failing test."""
        return "\n".join(
            f"===== {name}\n{process.tail(lines)}" for name, process in self.processes.items()
        )

    # -- work ------------------------------------------------------------------------------

    def sweep(self, count: int, *, seconds: float = 0.05, **fields: object) -> SweepHandle:
        """Hand in `count` experiments; each payload appends its number to the ledger."""
        experiment = Experiment.model_validate(
            {
                "name": "ledger",
                "site": "local",
                "commands": [f"echo {{n}} >> {self.ledger}", f"sleep {seconds}"],
                **fields,
            }
        )
        return self.client.schedule_sweep(experiment, {"n": list(range(count))})

    def payloads(self) -> Counter[str]:
        """How often each payload ran."""
        return Counter(self.ledger.read_text().split())

    def check_once(self, count: int) -> None:
        """Assert that each of `count` payloads ran exactly once."""
        ran = self.payloads()
        twice = {n: times for n, times in ran.items() if times > 1}
        lost = sorted({str(n) for n in range(count)} - ran.keys())
        assert not twice, f"payloads run more than once: {twice}"
        assert not lost, f"payloads never run: {lost}"

    def steps_rerun(self) -> int:
        """How many claims were made beyond one per step."""
        with self.client.store.database.read() as connection:
            found = connection.exec_driver_sql(
                "SELECT sum(attempt - 1) FROM steps WHERE attempt > 1"
            ).scalar()
        return int(found or 0)


@dataclass
class Chaos:
    """Kills parts of a fleet with -9 at random times, the same times for the same seed."""

    fleet: Fleet
    broker: PrivateRabbitMQ
    seed: int
    postgresql: PrivatePostgreSQL | None = None
    pause_s: tuple[float, float] = (0.3, 1.5)
    #: how often each target is drawn
    weights: dict[str, int] = field(
        default_factory=lambda: {"worker": 4, "child": 6, "control": 3, "broker": 1}
    )
    done: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        if self.postgresql is not None:
            self.weights = {**self.weights, "database": 3}

    def run_until(self, ended: Callable[[], bool], *, faults: int, timeout_s: float) -> None:
        """Kill until `ended` or `faults` kills are done, then wait for the end."""
        rng = random.Random(self.seed)
        targets, weights = zip(*self.weights.items(), strict=True)
        deadline = time.monotonic() + timeout_s
        while sum(self.done.values()) < faults and not ended() and time.monotonic() < deadline:
            # A pause between faults is the point of a campaign.
            threading.Event().wait(rng.uniform(*self.pause_s))
            [target] = rng.choices(targets, weights)
            getattr(self, f"kill_{target}")(rng)
            self.done[target] += 1
        left = deadline - time.monotonic()
        wait_for(ended, max(left, 1.0), "the end of the campaign", interval=0.1)

    def kill_worker(self, rng: random.Random) -> None:
        """KILL the main process of a worker; its children follow or are orphans for a while."""
        self._kill(rng, "worker")

    def kill_control(self, rng: random.Random) -> None:
        """KILL a control process."""
        self._kill(rng, "control")

    def _kill(self, rng: random.Random, kind: str) -> None:
        names = sorted(name for name in self.fleet.processes if name.startswith(kind))
        if names:
            self.fleet.processes[rng.choice(names)].send(signal.SIGKILL)

    def kill_child(self, rng: random.Random) -> None:
        """KILL one pool child of a worker."""
        names = sorted(name for name in self.fleet.processes if name.startswith("worker"))
        pids = children(self.fleet.processes[rng.choice(names)].pid)
        if pids:
            try:
                os.kill(rng.choice(pids), signal.SIGKILL)
            except ProcessLookupError:
                return

    def kill_broker(self, _rng: random.Random) -> None:
        """KILL the broker and start it again on the same data."""
        self.broker.kill9()
        self.broker.start()

    def kill_database(self, _rng: random.Random) -> None:
        """KILL PostgreSQL, which loses what it had not flushed, and start it again."""
        assert self.postgresql is not None
        self.postgresql.kill9()
        self.postgresql.start()
