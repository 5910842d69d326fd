"""Their side: a bare Celery worker of its own for each run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from celery import Celery

from benchmarks import bare
from benchmarks.rig import Services, python_path, worker
from services.processes import Process


@dataclass(frozen=True)
class System:
    """Who sends, who works, and the ledger of what is finished."""

    sender: Celery
    process: Process
    ledger: Path

    def send(self, numbers: range) -> None:
        """Send the chains of these numbers."""
        bare.send(self.sender, numbers)

    def finished(self) -> dict[int, float]:
        """When each chain that is finished was (seconds since the epoch), by its number."""
        return bare.finished(self.ledger)

    def warm_up(self, count: int) -> None:
        """Send the first `count` chains and wait for their end."""
        self.send(range(count))
        self.process.wait_for(lambda: len(self.finished()) == count, 60, "the warm-up")


@contextmanager
def system(services: Services, pool: tuple[str, ...]) -> Iterator[System]:
    """A worker with empty queues and an empty ledger."""
    directory = services.new_directory("bare")
    url, ledger = services.rabbitmq.new_vhost(), directory / "ledger"
    env = {bare.BROKER: url, bare.LEDGER: str(ledger), **python_path()}
    sender = bare.make_app(url)
    log = directory / "worker.log"
    try:
        with worker("benchmarks.bare:app", pool, set(bare.QUEUES), env, log) as process:
            yield System(sender, process, ledger)
    finally:
        sender.close()
