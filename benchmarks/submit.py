"""Submissions to Slurm over one SSH connection beside bare ``sbatch``; the cost of a poll.

Both sides have one connection of asyncssh to the same private sshd and hand the same job with the
same options to the same private Slurm, in turns; none of the jobs starts meanwhile. The directories
are made before: that is the step ``setup``, an earlier one than ``submit``. A sweep's members go in
arrays as large as the site takes them, beside the same by ``sbatch`` one by one. A poll asks for
all jobs of the site; what counts is the CPU time of our process, with all its threads.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import statistics
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final
from uuid import uuid4

import asyncssh
import rich
from rich.table import Table

from benchmarks.rig import cpu_s
from services.guardian import Guardian
from services.slurm import PrivateSlurm
from services.sshd import PrivateSshd
from wlm_tasks.compute.base import JobRef, JobSpec, JobState, Submitted
from wlm_tasks.compute.job_script import render
from wlm_tasks.compute.slurm.backend import SlurmBackend
from wlm_tasks.compute.slurm.options import options
from wlm_tasks.model.arrays import InArray, array_name
from wlm_tasks.model.experiment import Resources

WARM: Final = 8
#: so many channels at a time; SSH sites have at most eight
CHANNELS: Final = (1, 8)
#: asked for: at least this part of what bare sbatch does
RATIO: Final = 0.7
#: submits jobs, so many at a time
Submit = Callable[[Sequence[JobSpec], int], None]
#: asked for: at most so many milliseconds of CPU a poll, 5 % of a core every 10 s
POLL_MS: Final = 500.0


@dataclass(frozen=True)
class Cluster:
    """A private Slurm that takes jobs and starts none, and the SSH server to reach it by."""

    slurm: PrivateSlurm
    login: PrivateSshd
    scratch: Path

    @property
    def workdir(self) -> str:
        """Directory of all jobs."""
        return f"{self.scratch}/work"

    def backend(self, *, far: bool = True) -> SlurmBackend:
        """A site on it, with its directory made; over SSH or on this host."""
        made = SlurmBackend(
            name="far" if far else "here",
            scratch=str(self.scratch),
            options=self.login.options if far else {},
        )
        made.prepare(self.workdir)
        return made

    def job(self) -> JobSpec:
        """A job that does nothing."""
        ref = JobRef(token=f"t-{uuid4().hex}", workdir=self.workdir)
        return JobSpec(ref=ref, script="true", resources=Resources(walltime_s=60))


@contextmanager
def cluster() -> Iterator[Cluster]:
    """All of it during the block."""
    guardian = Guardian()
    scratch = guardian.directory / "scratch"
    scratch.mkdir()
    try:
        # sshd counts a session for a moment after its end: none is to be refused to either side
        with (
            PrivateSlurm(guardian.directory / "slurm") as slurm,
            PrivateSshd(guardian.directory / "login", max_sessions=64) as login,
        ):
            os.environ |= slurm.environ
            lines = [f"export {name}={value}\n" for name, value in slurm.environ.items()]
            (login.home / ".bashrc").write_text("".join(lines))
            slurm.command("scontrol", "update", "PartitionName=debug", "State=DOWN")
            yield Cluster(slurm, login, scratch)
    finally:
        guardian.close()


class BareSbatch:
    """``sbatch`` with the job on its standard input, over a connection of its own."""

    def __init__(self, stand: Cluster) -> None:
        self._runner = asyncio.Runner()
        login = stand.login
        self._connection = self._runner.run(
            _connect(login.host, login.port, login.user, login.key_file, login.known_hosts)
        )

    def submit(self, jobs: Sequence[JobSpec], channels: int) -> None:
        """Submit jobs, some at a time."""
        self._runner.run(self._submit(jobs, channels))

    async def _submit(self, jobs: Sequence[JobSpec], channels: int) -> None:
        places = asyncio.Semaphore(channels)
        async with asyncio.TaskGroup() as group:
            for spec in jobs:
                group.create_task(self._one(spec, places))

    async def _one(self, spec: JobSpec, places: asyncio.Semaphore) -> None:
        words = ["sbatch", "--parsable", *options(spec, {})]
        script = render(spec, bells=None)
        async with places:
            done = await self._connection.run(shlex.join(words), input=script)
        if not str(done.stdout).strip().isdecimal():
            raise RuntimeError(f"sbatch: {done.stdout!s}{done.stderr!s}")

    def close(self) -> None:
        """End the connection."""
        self._connection.abort()
        self._runner.close()


async def _connect(
    host: str, port: int, user: str, key: Path, known: Path
) -> asyncssh.SSHClientConnection:
    return await asyncssh.connect(
        host, port, username=user, client_keys=[str(key)], known_hosts=str(known), config=None
    )


def submit_ours(backend: SlurmBackend, jobs: Sequence[JobSpec], channels: int) -> None:
    """Submit jobs through the backend, some at a time."""
    with ThreadPoolExecutor(channels) as pool:
        for submitted in pool.map(backend.submit, jobs):
            if not submitted.native_id.isdecimal():
                raise RuntimeError(f"got the id {submitted.native_id!r}")


@dataclass(frozen=True)
class Side:
    """How one side did in a round."""

    rate: float  #: submissions a second
    cpu_ms: float  #: of the SSH server and all that was run by it, for each submission


@dataclass(frozen=True)
class Round:
    """Both sides, one after the other."""

    channels: int
    bare: Side
    ours: Side

    @property
    def ratio(self) -> float:
        """The rate of ours over that of bare ``sbatch``."""
        return self.ours.rate / self.bare.rate


def measure(stand: Cluster, count: int, rounds: int) -> Iterator[Round]:
    """Let both sides submit in turns, the one that goes first changing."""
    bare, ours = BareSbatch(stand), stand.backend()
    sides: dict[str, Submit] = {"bare": bare.submit, "ours": partial(submit_ours, ours)}
    for submit in sides.values():
        submit(_jobs(stand, ours, WARM), max(CHANNELS))
    for number in range(rounds):
        order = list(sides) if number % 2 == 0 else list(reversed(sides))
        for channels in CHANNELS:
            done = {
                name: _side(stand, sides[name], _jobs(stand, ours, count), channels)
                for name in order
            }
            yield Round(channels, **done)
    bare.close()
    ours.close()


def _jobs(stand: Cluster, backend: SlurmBackend, count: int) -> list[JobSpec]:
    """So many jobs, with their directories."""
    jobs = [stand.job() for _ in range(count)]
    for job in jobs:
        backend.prepare(job.ref.workdir, job.ref.token)
    return jobs


def _side(stand: Cluster, submit: Submit, jobs: Sequence[JobSpec], channels: int) -> Side:
    login = [stand.login.process.pid]
    start, before = time.perf_counter(), cpu_s(login)
    submit(jobs, channels)
    passed = time.perf_counter() - start
    return Side(len(jobs) / passed, 1000 * (cpu_s(login) - before) / len(jobs))


def measure_arrays(stand: Cluster, count: int, rounds: int) -> Iterator[Round]:
    """Let both sides submit a sweep of `count` members in turns: one by one, and by arrays."""
    bare, ours = BareSbatch(stand), stand.backend()
    sides: dict[str, Submit] = {"bare": bare.submit, "ours": partial(submit_arrays, ours)}
    for submit in sides.values():
        submit(_jobs(stand, ours, WARM), 1)
    for number in range(rounds):
        order = list(sides) if number % 2 == 0 else list(reversed(sides))
        done = {name: _side(stand, sides[name], _jobs(stand, ours, count), 1) for name in order}
        yield Round(1, **done)
    bare.close()
    ours.close()


def submit_arrays(backend: SlurmBackend, jobs: Sequence[JobSpec], _channels: int) -> None:
    """Submit jobs as members of one sweep, one array after the other."""
    for start in range(0, len(jobs), backend.batch):
        name = array_name()
        members = [
            replace(job, ref=replace(job.ref, array=InArray(name, index)))
            for index, job in enumerate(jobs[start : start + backend.batch])
        ]
        for answer in backend.submit_many(members).values():
            if not isinstance(answer, Submitted) or "_" not in answer.native_id:
                raise RuntimeError(f"got {answer!r}")


@dataclass(frozen=True)
class Poll:
    """What one look at all jobs costs."""

    where: str
    jobs: int
    own_ms: float  #: CPU of our process
    children_ms: float  #: and of what it has started on this host
    wall_ms: float


def measure_polls(stand: Cluster, jobs: int, polls: int) -> Iterator[Poll]:
    """Fill the queue up to so many jobs and look at all of them."""
    here, far = stand.backend(far=False), stand.backend()
    refs = _fill(stand, jobs)
    for where, backend in (("on this host", here), ("over SSH", far)):
        backend.status(refs)
        for _ in range(polls):
            yield _poll(where, backend, refs)
        backend.close()


def _poll(where: str, backend: SlurmBackend, refs: Sequence[JobRef]) -> Poll:
    start, before = time.perf_counter(), os.times()
    states = {status.state for status in backend.status(refs).values()}
    after, wall = os.times(), time.perf_counter() - start
    if states != {JobState.PENDING}:
        raise RuntimeError(f"the jobs are {states}, expected them to wait")
    own = after.user + after.system - before.user - before.system
    ended = after.children_user + after.children_system
    children = max(0.0, ended - (before.children_user + before.children_system))
    return Poll(where, len(refs), 1000 * own, 1000 * children, 1000 * wall)


def _fill(stand: Cluster, jobs: int) -> list[JobRef]:
    """Have just so many jobs in the queue, each named by its token."""
    stand.slurm.drop_jobs()
    refs = [stand.job().ref for _ in range(jobs)]
    for ref in refs:
        stand.slurm.command(
            "sbatch", f"--job-name={ref.token}", "--output=/dev/null", "--wrap=true"
        )
    return refs


def table(measured: Sequence[Round]) -> Table:
    """Medians over the rounds."""
    title = "Submissions a second over one SSH connection"
    words = ("channels", "bare sbatch", "ours", "of bare", "asked for")
    shown = Table(*words, "CPU ms there: bare", "ours", title=title)
    for channels in CHANNELS:
        rounds = [one for one in measured if one.channels == channels]
        ratio = statistics.median(one.ratio for one in rounds)
        sides = [[one.bare for one in rounds], [one.ours for one in rounds]]
        rates = (f"{statistics.median(one.rate for one in side):.1f}" for side in sides)
        costs = (f"{statistics.median(one.cpu_ms for one in side):.0f}" for side in sides)
        shown.add_row(f"{channels}", *rates, f"{ratio:.2f}", f"{RATIO}", *costs)
    return shown


def table_of_arrays(measured: Sequence[Round], count: int) -> Table:
    """Medians over the rounds."""
    title = f"Jobs a second of a sweep of {count} over one SSH connection"
    words = ("bare sbatch, one by one", "ours, by arrays", "of bare", "CPU ms there: bare", "ours")
    shown = Table(*words, title=title)
    sides = [[one.bare for one in measured], [one.ours for one in measured]]
    rates = (f"{statistics.median(one.rate for one in side):.1f}" for side in sides)
    costs = (f"{statistics.median(one.cpu_ms for one in side):.1f}" for side in sides)
    ratio = statistics.median(one.ratio for one in measured)
    shown.add_row(*rates, f"{ratio:.1f}", *costs)
    return shown


def table_of_polls(measured: Sequence[Poll]) -> Table:
    """Medians over the polls."""
    title = "One poll of all jobs, milliseconds"
    words = ("site", "jobs", "CPU of our process", "of its children", "wall", "asked for")
    shown = Table(*words, title=title)
    for where in dict.fromkeys(one.where for one in measured):
        polls = [one for one in measured if one.where == where]
        cells = (
            statistics.median(getattr(one, name) for one in polls)
            for name in ("own_ms", "children_ms", "wall_ms")
        )
        shown.add_row(where, f"{polls[0].jobs}", *map("{:.0f}".format, cells), f"{POLL_MS:.0f}")
    return shown


def add_options(parser: ArgumentParser) -> None:
    """Say how much to run."""
    parser.add_argument("-n", type=int, default=100, help="jobs a round (default: 100)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (default: 3)")
    parser.add_argument("--sweep", type=int, default=200, help="members (default: 200)")
    parser.add_argument("--jobs", type=int, default=1000, help="jobs to poll (default: 1000)")
    parser.add_argument("--polls", type=int, default=10, help="polls (default: 10)")


def run(given: Namespace) -> None:
    """Measure and show."""
    with cluster() as stand:
        measured: list[Round] = []
        for one in measure(stand, given.n, given.rounds):
            rich.print(f"{one.channels} at a time: {one.ours.rate:.1f}/s, ratio {one.ratio:.2f}")
            measured.append(one)
        rich.print(table(measured))
        arrays = list(measure_arrays(stand, given.sweep, given.rounds))
        rich.print(table_of_arrays(arrays, given.sweep))
        rich.print(table_of_polls(list(measure_polls(stand, given.jobs, given.polls))))
