"""Staging over HTTP, FTP and S3 beside curl and boto3's own transfers: one big file, put and got.

All go in turns to one private server of each kind, in memory (``/dev/shm``) unless told otherwise.
The servers are nginx, vsftpd and moto, which is written in Python; what they can do bounds
everybody, so the ratios count. Each tool is also counted with what a careful script adds to it,
``sha256sum`` of both sides.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any, Final

import boto3
import rich
from rich.table import Table

from services.ftpdaemons import PrivateVsftpd
from services.guardian import Guardian
from services.nginx import PrivateNginx
from services.s3server import BUCKET, PrivateS3
from wlm_tasks.storage.base import StorageBackend, TransferControl
from wlm_tasks.storage.ftp import FtpStorage
from wlm_tasks.storage.http import HttpStorage
from wlm_tasks.storage.localtrees import LocalDirectory
from wlm_tasks.storage.s3 import S3Storage
from wlm_tasks.storage.transfer import move

_MIB: Final = 1024 * 1024
_KEYS: Final = ("bench", "bench-secret")

#: moves ``big`` to ``got``: out of the directory (put) or into it
Way = Callable[[bool], None]
#: ways by name, and what removes a ``got`` there
Ways = tuple[Mapping[str, Way], Callable[[], None]]


def add_options(parser: ArgumentParser) -> None:
    """Size and where."""
    parser.add_argument("--big", type=int, default=256, metavar="MIB", help="size of the file")
    parser.add_argument("--rounds", type=int, default=5, help="times each way is gone")
    parser.add_argument("--directory", default="/dev/shm", help="where the files are")  # noqa: S108


def run(given: Namespace) -> None:
    """Measure and print."""
    with (
        closing(Guardian()) as guardian,
        tempfile.TemporaryDirectory(dir=given.directory) as name,
        ExitStack() as stack,
    ):
        here, root = Path(name) / "here", Path(name)
        here.mkdir()
        _fill(here / "big", given.big)
        os.environ["WLM_BENCH_S3"] = ":".join(_KEYS)
        for there in ("web", "ftp"):
            (root / there).mkdir()
        web = stack.enter_context(PrivateNginx(root / "web", root / "nginx"))
        ftp = stack.enter_context(PrivateVsftpd(root / "ftp", root / "vsftpd"))
        s3 = stack.enter_context(PrivateS3(guardian.directory / "s3.log"))
        kinds = {
            "HTTP": _web(here, HttpStorage(), web.base, web.directory),
            "FTP": _web(here, FtpStorage(), ftp.base, ftp.directory),
            "S3": _s3(here, s3.endpoint),
        }
        for kind, found in kinds.items():
            for put in (True, False):
                taken = _measured(here, found, put=put, rounds=given.rounds)
                _show(f"{kind} {'put' if put else 'got'}", given.big, taken)


def _fill(path: Path, mib: int) -> None:
    with path.open("wb") as file:
        for _ in range(mib):
            file.write(os.urandom(_MIB))


def _web(here: Path, storage: StorageBackend, url: str, there: Path) -> Ways:
    shutil.copyfile(here / "big", there / "big")

    def curl(put: bool) -> None:
        words = ["-T", here / "big", f"{url}/got"] if put else ["-o", here / "got", f"{url}/big"]
        subprocess.run(["/usr/bin/env", "curl", "-sSf", *map(str, words)], check=True)

    def careful(put: bool) -> None:
        curl(put)
        sides = (here / "big", there / "got") if put else (there / "big", here / "got")
        said = subprocess.run(
            ["/usr/bin/env", "sha256sum", *sides], check=True, stdout=subprocess.PIPE
        ).stdout
        if len({line.split()[0] for line in said.splitlines()}) != 1:
            raise RuntimeError("different")

    ways = {"curl": curl, "curl, verified": careful, "wlm_tasks": _ours(here, storage, url)}
    return ways, partial((there / "got").unlink, missing_ok=True)


def _s3(here: Path, endpoint: str) -> Ways:
    options = {"endpoint": endpoint, "credentials": "env:WLM_BENCH_S3", "region": "us-east-1"}
    client: Any = boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=_KEYS[0],
        aws_secret_access_key=_KEYS[1],
        region_name="us-east-1",
    )
    client.create_bucket(Bucket=BUCKET)
    client.upload_file(str(here / "big"), BUCKET, "big")

    def boto(put: bool) -> None:
        if put:
            client.upload_file(str(here / "big"), BUCKET, "got")
        else:
            client.download_file(BUCKET, "big", str(here / "got"))

    ours = _ours(here, S3Storage(name="bench", options=options), f"s3://{BUCKET}")
    ways = {"boto3": boto, "wlm_tasks": ours}
    return ways, partial(client.delete_object, Bucket=BUCKET, Key="got")


def _ours(here: Path, storage: StorageBackend, url: str) -> Way:
    near, control = LocalDirectory(str(here)), TransferControl()

    def go(put: bool) -> None:
        if put:
            with near.source("big") as source, storage.target(f"{url}/got", None) as target:
                result = move(source, target, control)
        else:
            with storage.source(f"{url}/big") as source, near.target("got", 0o600) as target:
                result = move(source, target, control)
        if not result.complete or not result.moved:
            raise RuntimeError("nothing was moved")

    return go


def _measured(here: Path, found: Ways, *, put: bool, rounds: int) -> dict[str, list[float]]:
    """Return the seconds each way took, gone in turns."""
    ways, forget = found
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            begun = time.monotonic()
            way(put)
            taken[name].append(time.monotonic() - begun)
            forget()
            (here / "got").unlink(missing_ok=True)
    return taken


def _show(title: str, mib: int, taken: Mapping[str, list[float]]) -> None:
    table = Table(title=f"{title}: {mib} MiB, MiB/s")
    for column in ("way", "median", "least", "most", "of the first"):
        table.add_column(column, justify="left" if column == "way" else "right")
    medians = {name: statistics.median(runs) for name, runs in taken.items()}
    first = next(iter(medians.values()))
    for name, runs in taken.items():
        rates = sorted(mib / seconds for seconds in runs)
        table.add_row(
            name,
            f"{mib / medians[name]:.0f}",
            f"{rates[0]:.0f}",
            f"{rates[-1]:.0f}",
            f"{first / medians[name]:.2f}",
        )
    rich.print(table)
