"""Our side: a system of its own for each run, and experiments that do nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import func, select

from benchmarks.rig import Services, watch, worker
from services.processes import Process, script
from wlm_tasks.api import Client
from wlm_tasks.config import load
from wlm_tasks.model.experiment import Experiment
from wlm_tasks.model.states import FINAL, ExperimentState
from wlm_tasks.state.schema import experiments, metadata, steps
from wlm_tasks.state.store import Store
from wlm_tasks.state.views import ExperimentView

QUEUES: Final = ("envsetup", "staging", "jobsub", "monitor", "scheduler")


@dataclass(frozen=True)
class System:
    """A client, and the directory and environment of the processes that work for it."""

    client: Client
    directory: Path
    env: dict[str, str]

    @property
    def store(self) -> Store:
        """The rows."""
        return self.client.store

    def start_worker(self, pool: tuple[str, ...], **options: Any) -> Process:
        """Start a worker on all queues; `options` as for `rig.worker`."""
        log = self.directory / "worker.log"
        return worker("wlm_tasks", pool, QUEUES, self.env, log, **options)

    def start(self, command: str) -> Process:
        """Start ``wlm control`` or ``wlm up``."""
        return Process(
            [script("wlm"), command],
            log=self.directory / f"{command}.log",
            env={**os.environ, **self.env},
            cwd=self.directory,
        )

    def warm_up(self, experiment: Experiment, count: int, process: Process) -> None:
        """Hand in the first `count` experiments, so that all that works has worked before."""
        for _ in range(count):
            self.client.schedule(experiment)
        wait_for(self, count, process, 60)

    def wait_closely(self, experiment_id: str, process: Process) -> ExperimentView:
        """Wait for one experiment's end, looking every millisecond; raises if it is not DONE."""
        query = select(experiments.c.ended_at).where(experiments.c.id == experiment_id)
        with self.store.database.read() as connection:
            watch(
                process,
                lambda: connection.execute(query).scalar_one() is not None,
                f"the end of {experiment_id}",
            )
        view = self.store.views.experiment(experiment_id)
        if view.state is not ExperimentState.DONE:
            raise RuntimeError(f"{experiment_id} is {view.state}: {view.reason}")
        return view

    def count(self, table: str) -> dict[str, int]:
        """How many rows of a table are in each state."""
        state = metadata.tables[table].c.state
        query = select(state, func.count()).group_by(state)
        with self.store.database.read() as connection:
            return {str(name): int(number) for name, number in connection.execute(query)}

    def done(self) -> int:
        """How many experiments are DONE by their own record."""
        return self._count(experiments.c.state == "DONE")

    def ended(self) -> int:
        """How many have ended, well or not."""
        return self._count(experiments.c.state.in_([state.value for state in FINAL]))

    def _count(self, condition: object) -> int:
        query = select(func.count()).select_from(experiments).where(condition)  # type: ignore[arg-type]
        with self.store.database.read() as connection:
            return int(connection.execute(query).scalar_one())

    def span(self, ids: list[str]) -> tuple[float, float, float]:
        """First acceptance, first start and last end of these, by the database's clock."""
        with self.store.database.read() as connection:
            first, last = connection.execute(
                select(func.min(experiments.c.created_at), func.max(experiments.c.ended_at)).where(
                    experiments.c.id.in_(ids)
                )
            ).one()
            started = connection.execute(
                select(func.min(steps.c.started_at)).where(steps.c.experiment_id.in_(ids))
            ).scalar_one()
        return float(first), float(started), float(last)


@contextmanager
def system(
    services: Services, database: str, *, carry_on: bool, broker: bool = True
) -> Iterator[System]:
    """A system with empty rows and queues; its processes are the caller's to start."""
    directory = services.new_directory("ours")
    env = {
        "WLM_CONFIG": str(directory / "wlm.toml"),
        "WLM_DATA_DIR": str(directory),
        "WLM_STEPS_CARRY_ON": "true" if carry_on else "false",
        "BENCH_DATABASE": services.database(database, directory),
        "WLM_DATABASE_URL": "env:BENCH_DATABASE",
    }
    if broker:
        env |= {"BENCH_BROKER": services.rabbitmq.new_vhost(), "WLM_BROKER_URL": "env:BENCH_BROKER"}
    (directory / "wlm.toml").write_text(
        f'[sites.bench]\nkind = "noop"\nscratch = "{directory}/bench"\n'
        f'[sites.local]\nkind = "local"\nscratch = "{directory}/local"\n'
    )
    os.environ |= env  # references to secrets are looked up there
    client = Client(load(Path(env["WLM_CONFIG"]), env))
    client.store.database.upgrade()
    try:
        yield System(client, directory, env)
    finally:
        client.close()
        for name in env:
            os.environ.pop(name, None)


def wait_for(system: System, count: int, process: Process, timeout: float = 300.0) -> None:
    """Wait until so many have ended, all of them well."""
    process.wait_for(lambda: system.ended() >= count, timeout, f"{count} experiments end")
    if system.done() != count:
        raise RuntimeError(f"{system.done()} of {count} experiments are DONE")
