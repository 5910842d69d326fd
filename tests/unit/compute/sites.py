"""Sites to run the compute tests on: one interface over real processes and over a fake."""

from __future__ import annotations

import os
import re
import signal
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from services.processes import wait_for
from services.sshd import PrivateSshd
from wlm_tasks.compute import processes
from wlm_tasks.compute.base import ENDED, ComputeBackend, JobRef, JobSpec, JobState, JobStatus
from wlm_tasks.compute.fake import FakeBackend, FakeOutcome, FakeSite
from wlm_tasks.compute.local import LocalBackend
from wlm_tasks.compute.ssh.backend import SshBackend
from wlm_tasks.model.experiment import Resources

#: for tests that look inside of what runs on this host
here_only = pytest.mark.parametrize("hosted", ["local"], indirect=True)


class Site(ABC):
    """What a test needs beside the interface it tests."""

    rings = True  #: whether the end of a job rings bells on this host
    url = "file://"  #: begin of its URLs

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        self.bells = scratch.parent / "bells"
        self.workdir = f"{scratch}/work"
        self.refs: list[JobRef] = []
        self.backend = self.another()

    @abstractmethod
    def another(self) -> ComputeBackend:
        """Return a second backend, as another process would make it."""

    @abstractmethod
    def job(self, *, exit_code: int | None = 0, stdout: str = "") -> JobSpec:
        """Return a job that ends like that, at once; with None it runs until it is ended."""

    def ref(self, **stop: object) -> JobRef:
        ref = JobRef(token=f"t-{uuid4().hex}", workdir=self.workdir, **stop)  # type: ignore[arg-type]
        self.refs.append(ref)
        return ref

    def status(self, ref: JobRef) -> JobStatus:
        return self.backend.status([ref])[ref.token]

    def wait_state(self, ref: JobRef, state: JobState, timeout: float = 10.0) -> JobStatus:
        what = f"state {state}, {self.status(ref)}"
        wait_for(lambda: self.status(ref).state is state, timeout, what)
        return self.status(ref)

    def wait_end(self, ref: JobRef) -> JobStatus:
        wait_for(lambda: self.status(ref).state in ENDED, what=f"end of {self.status(ref)}")
        return self.status(ref)


class FakeTestSite(Site):
    def __init__(self, scratch: Path) -> None:
        self.site = FakeSite()
        super().__init__(scratch)

    def another(self) -> FakeBackend:
        return FakeBackend(
            name="fake",
            scratch=str(self.scratch),
            options={"site": self.site},
            bells=str(self.bells),
        )

    def job(self, *, exit_code: int | None = 0, stdout: str = "") -> JobSpec:
        name = f"job-{uuid4().hex}"
        self.site.plan(name, FakeOutcome(exit_code=exit_code, stdout=stdout))
        return JobSpec(ref=self.ref(), script="", resources=Resources(), name=name)


class LocalSite(Site):
    @property
    def ledger(self) -> Path:
        return self.scratch.parent / "ledger"

    def another(self) -> ComputeBackend:
        return LocalBackend(
            name="local", scratch=str(self.scratch), options={}, bells=str(self.bells)
        )

    def job(self, *, exit_code: int | None = 0, stdout: str = "") -> JobSpec:
        (self.scratch.parent / "text").write_text(stdout)
        end = "while :; do sleep 0.05; done" if exit_code is None else f"exit {exit_code}"
        return self.spec(f"cat {self.scratch.parent}/text; {end}")

    def spec(
        self,
        script: str,
        *,
        walltime_s: float = 60.0,
        variables: Mapping[str, str] | None = None,
        name: str = "",
        **stop: object,
    ) -> JobSpec:
        """Return a job whose payload notes in the ledger that it was started."""
        ref = self.ref(**({"stop_grace_s": 2.0} | stop))
        return JobSpec(
            ref=ref,
            script=f"echo {ref.token} >> {self.ledger}\n{script}",
            resources=Resources(walltime_s=walltime_s),
            variables=variables or {},
            name=name,
        )

    def runs(self, ref: JobRef) -> int:
        """Return how often the payload was started."""
        lines = self.ledger.read_text().splitlines() if self.ledger.exists() else []
        return lines.count(ref.token)

    def living(self, ref: JobRef) -> list[list[str]]:
        """Return the command lines of the processes that carry the job's token."""
        return [processes.command_line(p) for p in processes.scan().of_job(ref.token, None)]

    def output(self, ref: JobRef) -> str:
        stdout = Path(ref.attempt_dir, "stdout")
        return stdout.read_text(errors="replace") if stdout.exists() else ""

    def clean(self) -> None:
        """End what the test left running."""
        for _ in range(50):
            table = processes.scan()
            left = [p for ref in self.refs for p in table.of_job(ref.token, None).values()]
            processes.send(left, signal.SIGKILL)
            if not left:
                break


class SshSite(LocalSite):
    """A plain host behind SSH: this one."""

    rings = False

    def __init__(self, scratch: Path, server: PrivateSshd) -> None:
        self.server = server
        self.url = f"sftp://{server.user}@{server.host}:{server.port}"
        super().__init__(scratch)

    def another(self) -> ComputeBackend:
        return SshBackend(name="ssh", scratch=str(self.scratch), options=self.server.options)


def stopped_processes(token: str) -> list[int]:
    """The processes of a job that are stopped."""
    members = processes.scan().of_job(token, None)
    return [p for p in members if "\nState:\tT" in Path(f"/proc/{p}/status").read_text()]


def ignored_signals(output: str) -> int:
    """The mask of the usual signals that a job ignores which printed its SigIgn line."""
    told = re.search(r"^SigIgn:\s*([0-9a-f]+)$", output, re.MULTILINE)
    assert told, output
    # 32 and 33 are the C library's own; it lets nobody change what became of them
    return int(told[1], 16) & ~(1 << 31 | 1 << 32)


@contextmanager
def forked(work: Callable[[], object]) -> Iterator[int]:
    """Do `work` in a process of its own, leader of its group; killed and waited for at the end."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setsid()
            work()
            code = 0
        except BaseException:  # noqa: BLE001 - nothing of the test may go on in the copy
            traceback.print_exc()
        finally:
            os._exit(code)
    try:
        yield pid
    finally:
        with _gone_is_fine():
            os.kill(pid, signal.SIGKILL)
        with _gone_is_fine():
            os.waitpid(pid, 0)


@contextmanager
def _gone_is_fine() -> Iterator[None]:
    try:
        yield
    except (ProcessLookupError, ChildProcessError):
        return
