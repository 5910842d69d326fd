"""Files from host to host beside those that go through a worker: rate, and CPU of the worker.

Two private sshds with a login from either to the other, files in memory (``/dev/shm``) unless told
otherwise, in turns. Each way computes the digests of both sides, as always.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from argparse import ArgumentParser, Namespace
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import rich
from rich.table import Table

from services.guardian import Guardian
from services.sshd import PrivateSshd
from wlm_tasks.hosts.detours import Logins
from wlm_tasks.hosts.direct import ways
from wlm_tasks.storage.base import TransferControl
from wlm_tasks.storage.scp import ScpStorage
from wlm_tasks.storage.transfer import move

_MIB: Final = 1024 * 1024
#: of each way: whether it is on one host, and who logs in to the other; None through the worker
WAYS: Final[dict[str, tuple[bool, Logins | None]]] = {
    "host to host, by the worker": (False, None),
    "host to host, pushed": (False, Logins(source=True)),
    "host to host, pulled": (False, Logins(target=True)),
    "on one host, by the worker": (True, None),
    "on one host, copied there": (True, Logins()),
}


@dataclass(frozen=True)
class Taken:
    """What one transfer took."""

    wall_s: float
    cpu_s: float  #: of this process


def add_options(parser: ArgumentParser) -> None:
    """Sizes and where."""
    parser.add_argument("--size", type=int, default=256, metavar="MIB", help="size of the file")
    parser.add_argument("--rounds", type=int, default=5, help="times each way is gone")
    parser.add_argument("--directory", default="/dev/shm", help="where the files are")  # noqa: S108


def run(given: Namespace) -> None:
    """Measure and print."""
    guardian = Guardian()
    with (
        closing(guardian),
        tempfile.TemporaryDirectory(dir=given.directory) as directory,
        PrivateSshd(guardian.directory / "first") as first,
        PrivateSshd(guardian.directory / "second") as second,
    ):
        first.lets_in(second)
        second.lets_in(first)
        here = Path(directory)
        with (here / "file").open("wb") as file:
            for _ in range(given.size):
                file.write(os.urandom(_MIB))
        servers = first, second
        for name in WAYS:
            _go(here, servers, *WAYS[name])  # logs in
        taken: dict[str, list[Taken]] = {name: [] for name in WAYS}
        for _ in range(given.rounds):
            for name, way in WAYS.items():
                taken[name].append(_go(here, servers, *way))
        _show(given.size, taken)


def _go(
    here: Path, servers: tuple[PrivateSshd, PrivateSshd], on_one: bool, logins: Logins | None
) -> Taken:
    first, last = servers[0], servers[0 if on_one else 1]
    source_at, target_at = (ScpStorage(name="x", options=one.options) for one in (first, last))
    wall, cpu = time.monotonic(), time.process_time()
    with (
        source_at.source(f"scp://{first.host}:{first.port}{here}/file") as source,
        target_at.target(f"scp://{last.host}:{last.port}{here}/got", None) as target,
    ):
        to = target if logins is None else ways(source, target, logins)[0]
        if not move(source, to, TransferControl()).complete:
            raise RuntimeError("the transfer did not end")
    taken = Taken(time.monotonic() - wall, time.process_time() - cpu)
    (here / "got").unlink()
    return taken


def _show(size: int, taken: dict[str, list[Taken]]) -> None:
    table = Table(title=f"{size} MiB, medians")
    for column in ("way", "MiB/s", "least", "most", "CPU s of the worker"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for name, runs in taken.items():
        rates = sorted(size / one.wall_s for one in runs)
        cpu = statistics.median(one.cpu_s for one in runs)
        figures = [f"{rate:.0f}" for rate in (statistics.median(rates), rates[0], rates[-1])]
        table.add_row(name, *figures, f"{cpu:.2f}")
    rich.print(table)
