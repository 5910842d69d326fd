"""Staging over SSH beside scp, rsync and tar: one big file, and many small ones, put and got.

All go to one private sshd, in turns, in memory (``/dev/shm``) unless told otherwise. Ours verifies
digests as it always does. The others do not; so each of them is also counted with what a careful
script adds to it: ``sha256sum`` of both sides, compared. Their cipher is the one that we ask for
first, and their own default is a row of its own. Targets do not exist before; nobody resumes.

The last rows are of hosts without a shell, where a careful script can only get again what it has
put.
"""

from __future__ import annotations

import os
import shlex
import shutil
import statistics
import subprocess
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import rich
from rich.table import Table

from services.guardian import Guardian
from services.sshd import PrivateSshd
from wlm_tasks.storage.base import TransferControl, TransferResult
from wlm_tasks.storage.localtrees import LocalDirectory
from wlm_tasks.storage.scp import ScpStorage
from wlm_tasks.storage.transfer import move
from wlm_tasks.storage.trees import move_tree

#: asked for: at least this part of what the fastest of the tools does, verified
RATIO: Final = 0.9
_GCM: Final = "aes128-gcm@openssh.com"
_MIB: Final = 1024 * 1024
_SUMS: Final = "find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum"


@dataclass(frozen=True)
class Bench:
    """Where things are, and how the tools get there."""

    server: PrivateSshd
    here: Path  #: with ``big`` and ``small``, and what is got
    there: Path  #: the same of the other side

    def ssh(self, cipher: str) -> list[str]:
        """Words of OpenSSH's client."""
        server = self.server
        options = {
            "UserKnownHostsFile": str(server.known_hosts),
            "IdentityFile": str(server.key_file),
            "IdentitiesOnly": "yes",
            "Port": str(server.port),
            **({"Ciphers": cipher} if cipher else {}),
        }
        given = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        return ["-F", "none", *given]

    @property
    def host(self) -> str:
        """Whom to log in as."""
        return f"{self.server.user}@{self.server.host}"

    def remote(self, command: str, cipher: str = _GCM) -> str:
        """A shell command that runs another one there."""
        return shlex.join(["ssh", *self.ssh(cipher), self.host, command])


#: moves what `what` says, from here or from there
Way = Callable[[Bench, str, bool], None]


def _scp(bench: Bench, what: str, put: bool, *, cipher: str = _GCM) -> None:
    source, target = _ends(bench, what, put=put)
    _run(shlex.join(["scp", "-q", "-r", *bench.ssh(cipher), source, target]))


def _rsync(bench: Bench, what: str, put: bool) -> None:
    source, target = _ends(bench, what, put=put)
    slash = "" if what == "big" else "/"
    shell = shlex.join(["ssh", *bench.ssh(_GCM)])
    _run(shlex.join(["rsync", "-r", "-e", shell, f"{source}{slash}", target]))


def _sftp(bench: Bench, what: str, put: bool) -> None:
    source, target = _ends(bench, what, put=put)
    words = [place.rpartition(":")[2] for place in (source, target)]
    commands = [f"put -r {words[0]} {words[1]}" if put else f"get -r {words[0]} {words[1]}"]
    if put and what == "small":
        commands.insert(0, f"mkdir {words[1]}")
    batch = shlex.quote("\n".join(commands))
    client = shlex.join(["sftp", "-q", "-b", "-", *bench.ssh(_GCM), bench.host])
    _run(f"printf '%s\\n' {batch} | {client} > /dev/null")


def _sftp_read_back(bench: Bench, what: str, put: bool) -> None:
    """What a careful script can do without a shell there: get again what it has put."""
    _sftp(bench, what, put)
    source = bench.here / what
    back = bench.here / "got"
    if put:
        far = "got/small" if what == "small" else "got"
        get = f"get -r {bench.there}/{far} {back}"
        client = shlex.join(["sftp", "-q", "-b", "-", *bench.ssh(_GCM), bench.host])
        _run(f"echo {shlex.quote(get)} | {client} > /dev/null")
    sums = [_said(_sums(back))] + ([_said(_sums(source))] if put else [])
    if len(set(sums)) != 1:
        raise RuntimeError(f"different: {sums}")


def _tar(bench: Bench, what: str, put: bool) -> None:
    here, there = bench.here, bench.there
    source, target = (here, f"{there}/got") if put else (there, here / "got")
    pack = f"tar -C {shlex.quote(str(source))} -cf - {what}"
    unpack = f"mkdir -p {shlex.quote(str(target))} && tar -C {shlex.quote(str(target))} -xf -"
    if put:
        _run(f"{pack} | {bench.remote(unpack)}")
    else:
        _run(f"{bench.remote(pack)} | ({unpack})")


def _ends(bench: Bench, what: str, *, put: bool) -> tuple[str, str]:
    far = f"{bench.host}:{bench.there}"
    if put:
        return str(bench.here / what), f"{far}/got"
    return f"{far}/{what}", str(bench.here / "got")


def _ours(bench: Bench, what: str, put: bool, *, shell: bool = True) -> None:
    options = {**bench.server.options, "shell": shell}
    storage = ScpStorage(name="bench", options=options)
    place = f"sftp://{bench.server.host}:{bench.server.port}{bench.there}"
    near, control = LocalDirectory(str(bench.here)), TransferControl()
    if what == "small":
        tree = near.tree(what, "") if put else storage.tree(f"{place}/{what}", "")
        to = storage.tree_target(f"{place}/got") if put else near.tree_target("got")
        result = move_tree(tree, to, control)
    else:
        result = _one(near, storage, f"{place}/", what, put=put)
    if not result.complete:
        raise RuntimeError("the transfer did not end")


def _one(
    near: LocalDirectory, storage: ScpStorage, place: str, what: str, *, put: bool
) -> TransferResult:
    if put:
        with near.source(what) as source, storage.target(f"{place}got", 0o600) as target:
            return move(source, target, TransferControl())
    with storage.source(f"{place}{what}") as source, near.target("got", 0o600) as target:
        return move(source, target, TransferControl())


def _verified(way: Way) -> Way:
    """Return a way with what a careful script does behind it."""

    def careful(bench: Bench, what: str, put: bool) -> None:
        way(bench, what, put)
        got = f"got/{what}" if way is _tar else "got"
        near = _sums(bench.here / (what if put else got))
        far = _sums(bench.there / (got if put else what))
        sums = [_said(near), _said(bench.remote(far))]
        if sums[0] != sums[1]:
            raise RuntimeError(f"different: {sums}")

    return careful


def _sums(place: Path) -> str:
    quoted = shlex.quote(str(place))
    return f"if [ -d {quoted} ]; then cd {quoted} && {_SUMS}; else sha256sum < {quoted}; fi"


def _run(command: str) -> None:
    subprocess.run(["/bin/bash", "-o", "pipefail", "-c", command], check=True)


def _said(command: str) -> str:
    return subprocess.run(
        ["/bin/bash", "-c", command], check=True, stdout=subprocess.PIPE, text=True
    ).stdout


WAYS: Final[dict[str, Way]] = {
    "scp, its own cipher": lambda bench, what, put: _scp(bench, what, put, cipher=""),
    "scp": _scp,
    "rsync": _rsync,
    "tar | ssh": _tar,
    "scp, verified": _verified(_scp),
    "rsync, verified": _verified(_rsync),
    "tar | ssh, verified": _verified(_tar),
    "wlm_tasks": _ours,
    "sftp": _sftp,
    "sftp, read back": _sftp_read_back,
    "wlm_tasks, by SFTP alone": partial(_ours, shell=False),
}


def add_options(parser: ArgumentParser) -> None:
    """Sizes and where."""
    parser.add_argument("--big", type=int, default=1024, metavar="MIB", help="size of the file")
    parser.add_argument("--files", type=int, default=2000, help="number of small files, of 4 KiB")
    parser.add_argument("--rounds", type=int, default=5, help="times each way is gone")
    parser.add_argument("--directory", default="/dev/shm", help="where the files are")  # noqa: S108


def run(given: Namespace) -> None:
    """Measure and print."""
    guardian = Guardian()
    with (
        closing(guardian),
        tempfile.TemporaryDirectory(dir=given.directory) as directory,
        PrivateSshd(guardian.directory / "sshd", max_sessions=64) as server,
    ):
        bench = Bench(server, Path(directory) / "here", Path(directory) / "there")
        _fill(bench, given)
        _ours(bench, "small", True)  # logs in
        _forget(bench)
        for what in ("big", "small"):
            amount = given.big if what == "big" else given.files
            for put in (True, False):
                _show(what, put, amount, _measured(bench, what, put, given.rounds))


def _fill(bench: Bench, given: Namespace) -> None:
    for side in (bench.here, bench.there):
        (side / "small").mkdir(parents=True)
        with (side / "big").open("wb") as file:
            for _ in range(given.big):
                file.write(os.urandom(_MIB))
        for number in range(given.files):
            directory = side / "small" / f"d{number % 20}"
            directory.mkdir(exist_ok=True)
            (directory / f"f{number}").write_bytes(os.urandom(4096))


def _measured(bench: Bench, what: str, put: bool, rounds: int) -> dict[str, list[float]]:
    """Return the seconds each way took, gone in turns."""
    taken: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(rounds):
        for name, way in WAYS.items():
            begun = time.monotonic()
            way(bench, what, put)
            taken[name].append(time.monotonic() - begun)
            _forget(bench)
    return taken


def _forget(bench: Bench) -> None:
    for side in (bench.here, bench.there):
        got = side / "got"
        if got.is_dir():
            shutil.rmtree(got)
        else:
            got.unlink(missing_ok=True)


def _show(what: str, put: bool, amount: int, taken: dict[str, list[float]]) -> None:
    unit = "MiB" if what == "big" else "files"
    table = Table(title=f"{what} {'put' if put else 'got'}: {amount} {unit}, {unit}/s")
    for column in ("way", "median", "least", "most", "of the fastest", "of the fastest verified"):
        table.add_column(column, justify="left" if column == "way" else "right")
    rates = {name: sorted(amount / seconds for seconds in runs) for name, runs in taken.items()}
    medians = {name: statistics.median(found) for name, found in rates.items()}
    others = {name: rate for name, rate in medians.items() if "wlm_tasks" not in name}
    fastest = max(others.values())
    verified = max(rate for name, rate in others.items() if "verified" in name)
    for name, found in rates.items():
        table.add_row(
            name,
            f"{medians[name]:.0f}",
            f"{found[0]:.0f}",
            f"{found[-1]:.0f}",
            f"{medians[name] / fastest:.2f}",
            f"{medians[name] / verified:.2f}",
        )
    rich.print(table)
    rich.print(f"asked for: {RATIO} of the fastest, verified")
