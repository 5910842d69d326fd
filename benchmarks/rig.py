"""What every benchmark stands on: private services, workers, and the CPU time they use."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.guardian import Guardian
from services.postgresql import PrivatePostgreSQL
from services.processes import Process, children, script, wait_for
from services.rabbitmq import PrivateRabbitMQ

_TICKS: Final = os.sysconf("SC_CLK_TCK")
#: seconds between two close looks: little beside what is measured
_CLOSE_S: Final = 0.001
#: both kinds of database
DATABASES: Final = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}
#: the words for a worker's pool
PREFORK: Final = ("-P", "prefork", "-c", "2")
SOLO: Final = ("-P", "solo")
#: a worker says nothing to its neighbours: what is measured is steps
QUIET: Final = ("--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "WARNING")
#: messages on their way to each slot, for both sides: with steps this short one is not enough
PREFETCH: Final = ("--prefetch-multiplier", "4")


@dataclass(frozen=True)
class Services:
    """A private RabbitMQ and a private PostgreSQL."""

    rabbitmq: PrivateRabbitMQ
    postgresql: PrivatePostgreSQL
    directory: Path

    def database(self, kind: str, directory: Path) -> str:
        """URL of an empty database of a kind."""
        if kind == "sqlite":
            return f"sqlite:///{directory / 'wlm.db'}"
        return self.postgresql.new_database()

    def new_directory(self, name: str) -> Path:
        """An empty directory for one run."""
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.directory))


@contextmanager
def services() -> Iterator[Services]:
    """Both services during the block; whatever is started meanwhile ends with it."""
    guardian = Guardian()
    try:
        with (
            PrivateRabbitMQ(guardian.directory / "rabbitmq") as rabbitmq,
            PrivatePostgreSQL(guardian.directory / "postgresql") as postgresql,
        ):
            yield Services(rabbitmq, postgresql, guardian.directory)
    finally:
        guardian.close()


def worker(
    app: str,
    pool: tuple[str, ...],
    queues: Iterable[str],
    env: Mapping[str, str],
    log: Path,
    *,
    options: tuple[str, ...] = (*PREFETCH, *QUIET),
) -> Process:
    """Start a Celery worker; `pool` are its words for the pool, such as ``("-P", "solo")``."""
    words = [script("celery"), "-A", app, "worker", *pool, *options, "-Q", ",".join(queues)]
    return Process(words, log=log, env={**os.environ, **env}, cwd=log.parent)


def watch(process: Process, condition: Callable[[], bool], what: str) -> None:
    """Wait until `process` has brought something about, looking every millisecond for a minute."""
    try:
        wait_for(condition, 60.0, what, _CLOSE_S)
    except TimeoutError as error:
        raise TimeoutError(f"{error}; {process!r} wrote last:\n{process.tail()}") from None


def program(argv: Sequence[str], env: Mapping[str, str], *, timeout_s: float = 600.0) -> str:
    """Run a program to its end and return what it wrote; `RuntimeError` if it fails."""
    done = subprocess.run(
        argv,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def python_path() -> dict[str, str]:
    """Environment in which this package can be imported from any directory."""
    root = str(Path(__file__).parent.parent)
    return {"PYTHONPATH": os.pathsep.join([root, f"{root}/tests"])}


def family(pid: int) -> list[int]:
    """A process and all its descendants."""
    return [pid, *(one for child in children(pid) for one in family(child))]


def cpu_s(pids: Iterable[int]) -> float:
    """CPU seconds of processes and their descendants so far, ended ones included.

    Of this process only its own: its descendants are what is measured.
    """
    total = 0
    own = os.getpid()
    for pid in {one for root in pids for one in (family(root) if root != own else [own])}:
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:  # ended in this moment
            continue
        times = stat.rpartition(")")[2].split()[11:15]
        total += sum(int(word) for word in (times[:2] if pid == own else times))
    return total / _TICKS


def python() -> str:
    """The interpreter that runs this."""
    return sys.executable
