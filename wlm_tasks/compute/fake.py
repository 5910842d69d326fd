"""Sites without machines: one to write tests with, one that does nothing for benchmarks."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from threading import RLock
from typing import Final
from urllib.parse import quote

from wlm_tasks.bell import ring
from wlm_tasks.compute.base import (
    CANCEL_WAIT_S,
    ENDED,
    ComputeBackend,
    JobRef,
    JobSpec,
    JobState,
    JobStatus,
    SiteLoad,
    Submitted,
    check_room,
)
from wlm_tasks.errors import (
    ConfigError,
    JobCancelledError,
    JobRejectedError,
    SiteTroubleError,
    WlmError,
)


@dataclass(frozen=True, kw_only=True)
class FakeOutcome:
    """How a job of a fake site goes."""

    exit_code: int | None = 0  #: None: it runs until `FakeSite.finish` or a cancel
    stdout: str = ""
    stderr: str = ""


@dataclass(frozen=True, kw_only=True)
class FakeJob:
    """What a fake site knows of one job."""

    status: JobStatus
    spec: JobSpec | None = None  #: None: cancelled before it was submitted
    outcome: FakeOutcome = FakeOutcome()
    native_id: str = ""


class FakeSite:
    """The memory of a fake site. Give one to several backends: they then see the same jobs.

    ``plan`` says how jobs go; ``fail``, ``lose_answer`` and ``trouble`` make calls go wrong;
    ``calls`` lists the calls made as (method, token), ``workdirs`` what was prepared.
    """

    def __init__(self) -> None:
        self.lock: Final = RLock()
        self.jobs: Final[dict[str, FakeJob]] = {}
        self.workdirs: Final[set[str]] = set()
        self.marks: Final[dict[str, int]] = {}
        self.calls: Final[list[tuple[str, str]]] = []
        self._outcomes: Final[dict[str, FakeOutcome]] = {}
        self._faults: Final[defaultdict[str, deque[Exception]]] = defaultdict(deque)
        self._lost_answers: Final[defaultdict[str, deque[Exception]]] = defaultdict(deque)
        self._bells: Final[set[str]] = set()
        self.load: SiteLoad | None = None  #: what the site tells of its account
        self.accounting: str | None = None  #: why its accounting is away
        self.trouble: SiteTroubleError | None = None  #: what every call raises meanwhile
        self.free_mb = 1_000_000  #: room where directories are made, in MiB
        self.batch = 1  #: most jobs it takes in one call

    def plan(self, name: str, outcome: FakeOutcome) -> None:
        """Say how jobs of this experiment's name go from now on."""
        self._outcomes[name] = outcome

    def fail(self, method: str, *errors: Exception) -> None:
        """Let the next calls of `method` raise these instead of doing anything."""
        self._faults[method].extend(errors)

    def lose_answer(self, method: str, *errors: Exception) -> None:
        """Let the next calls of `method` do their work and raise these all the same."""
        self._lost_answers[method].extend(errors)

    def finish(self, token: str, exit_code: int = 0) -> None:
        """End a running job."""
        state = JobState.SUCCEEDED if exit_code == 0 else JobState.FAILED
        reason = "" if exit_code == 0 else f"exit code {exit_code}"
        self._end(token, state, exit_code, reason)

    def lose(self, token: str) -> None:
        """Let a running job vanish without evidence of its end."""
        self._end(token, JobState.LOST, None, "its processes are gone and it left no exit record")

    def call(self, method: str, token: str) -> None:
        """Note a call; raise the fault planned for it."""
        self.calls.append((method, token))
        if self.trouble is not None:
            raise self.trouble
        _raise_next(self._faults[method])

    def answer(self, method: str) -> None:
        """Raise what was planned to come after the work is done."""
        _raise_next(self._lost_answers[method])

    def start(self, spec: JobSpec, bells: str | None) -> FakeJob:
        """Start the job unless it is known."""
        if bells is not None:
            self._bells.add(bells)
        token = spec.ref.token
        if token not in self.jobs:
            self.jobs[token] = FakeJob(
                spec=spec,
                outcome=self._outcomes.get(spec.name, FakeOutcome()),
                native_id=f"fake-{len(self.jobs) + 1}",
                status=JobStatus(state=JobState.RUNNING, started_at=time.time()),
            )
            if (code := self.jobs[token].outcome.exit_code) is not None:
                self.finish(token, code)
        return self.jobs[token]

    def cancel(self, token: str) -> None:
        """End the job if it runs; if it is unknown, see that it never will."""
        if token in self.jobs:
            self._end(token, JobState.CANCELLED, None, "cancelled")
        else:
            ended = JobStatus(state=JobState.CANCELLED, ended_at=time.time(), reason="cancelled")
            self.jobs[token] = FakeJob(status=ended)

    def _end(self, token: str, state: JobState, exit_code: int | None, reason: str) -> None:
        with self.lock:
            job = self.jobs[token]
            if job.status.state in ENDED:
                return
            status = replace(
                job.status,
                state=state,
                exit_code=exit_code,
                ended_at=time.time(),
                reason=reason,
            )
            self.jobs[token] = replace(job, status=status)
        for directory in self._bells:
            ring(Path(directory), token)


class FakeBackend(ComputeBackend):
    """A site in memory. Its jobs succeed at once unless its `FakeSite` says otherwise.

    The site is ``options["site"]``, or one of the backend's own.
    """

    def __init__(
        self, *, name: str, scratch: str, options: Mapping[str, object], bells: str | None = None
    ) -> None:
        site = options.get("site") or FakeSite()
        if not isinstance(site, FakeSite):
            raise ConfigError(f"sites.{name}.site: got {site!r}, expected a FakeSite")
        self.name = name
        self.site = site
        self._scratch = scratch
        self._bells = bells

    def prepare(
        self,
        workdir: str,
        token: str | None = None,  # noqa: ARG002
        *,
        disk_mb: int | None = None,
        mark: int | None = None,
    ) -> None:
        """Note the directory."""
        with self.site.lock:
            self.site.call("prepare", "")
            self._check_inside(workdir)
            check_room(workdir, self.site.free_mb, disk_mb)
            self.site.workdirs.add(workdir)
            self.site.marks[workdir] = mark or 0
            self.site.answer("prepare")

    def submit(self, spec: JobSpec) -> Submitted:
        """Start the job as planned unless it is known."""
        token = spec.ref.token
        with self.site.lock:
            self.site.call("submit", token)
            self._check_inside(spec.ref.workdir)
            if token in self.site.jobs and self.site.jobs[token].status.reason == "cancelled":
                raise JobCancelledError(f"job {token} was cancelled before it started")
            if spec.ref.workdir not in self.site.workdirs:
                raise JobRejectedError(f"{spec.ref.workdir}: no such directory, was it prepared?")
            job = self.site.start(spec, self._bells)
            self.site.answer("submit")
            return Submitted(native_id=job.native_id)

    @property
    def batch(self) -> int:
        """As the site was told."""
        return self.site.batch

    def submit_many(self, specs: Sequence[JobSpec]) -> dict[str, Submitted | WlmError]:
        """Start the jobs one after the other; the call is noted with the array's name."""
        array = specs[0].ref.array
        with self.site.lock:
            self.site.call("submit_many", "" if array is None else array.name)
            answers = super().submit_many(specs)
            self.site.answer("submit_many")
            return answers

    def status(self, refs: Sequence[JobRef]) -> dict[str, JobStatus]:
        """Return what the site's memory says."""
        with self.site.lock:
            self.site.call("status", "")
            unknown = JobStatus(state=JobState.UNKNOWN, reason="no such job")
            jobs = self.site.jobs
            found = {r.token: jobs[r.token].status if r.token in jobs else unknown for r in refs}
            self.site.answer("status")
            return found

    def find(self, ref: JobRef) -> str | None:
        """Return the id the site gave."""
        with self.site.lock:
            self.site.call("find", ref.token)
            job = self.site.jobs.get(ref.token)
            return job.native_id or None if job is not None else None

    def cancel(self, ref: JobRef, *, wait_s: float = CANCEL_WAIT_S) -> bool:  # noqa: ARG002
        """End the job at once."""
        with self.site.lock:
            self.site.call("cancel", ref.token)
            self._check_inside(ref.workdir)
            self.site.cancel(ref.token)
            self.site.answer("cancel")
            return True

    def tail(self, ref: JobRef, stream: str, lines: int) -> str:
        """Return the end of what the plan says the job wrote."""
        if stream not in {"stdout", "stderr"}:
            raise ValueError(f"stream: got {stream!r}, expected stdout or stderr")
        with self.site.lock:
            self.site.call("tail", ref.token)
            job = self.site.jobs.get(ref.token)
            text = "" if job is None else str(getattr(job.outcome, stream))
        return "".join(text.splitlines(keepends=True)[-lines:]) if lines > 0 else ""

    def load(self) -> SiteLoad | None:
        """Return what the site was told to tell."""
        return self.site.load

    def accounting_trouble(self) -> str | None:
        """Return what the site was told to lack."""
        return self.site.accounting

    def discard(self, workdir: str, mark: int | None = None) -> bool:
        """Forget the directory."""
        with self.site.lock:
            self.site.call("discard", "")
            self._check_inside(workdir)
            if mark is not None and self.site.marks.get(workdir, 0) > mark:
                raise JobRejectedError(f"{workdir}: was set up again meanwhile")
            self.site.workdirs.discard(workdir)
            self.site.marks.pop(workdir, None)
            self.site.answer("discard")
        return True

    def url(self, path: str) -> str:
        """Return a ``file://`` URL, though the fake site has no files."""
        return f"file://{quote(path)}"

    def _check_inside(self, workdir: str) -> None:
        if Path(self._scratch) not in Path(workdir).parents or ".." in Path(workdir).parts:
            raise JobRejectedError(
                f"workdir: got {workdir!r}, expected a directory below {self._scratch}"
            )


class NoopBackend(ComputeBackend):
    """Jobs succeed when they are submitted, nothing is run and no file is touched."""

    def __init__(self, *, name: str, **_settings: object) -> None:
        self.name = name
        self._done = JobStatus(state=JobState.SUCCEEDED, exit_code=0)

    def prepare(
        self,
        workdir: str,
        token: str | None = None,
        *,
        disk_mb: int | None = None,
        mark: int | None = None,
    ) -> None:
        """Do nothing."""

    def submit(self, spec: JobSpec) -> Submitted:
        """Report success at once."""
        return Submitted(native_id=spec.ref.token, status=self._done)

    def status(self, refs: Sequence[JobRef]) -> dict[str, JobStatus]:
        """Report success for all."""
        return {ref.token: self._done for ref in refs}

    def find(self, ref: JobRef) -> str | None:
        """Return the token."""
        return ref.token

    def cancel(self, ref: JobRef, *, wait_s: float = CANCEL_WAIT_S) -> bool:  # noqa: ARG002
        """Report that nothing runs."""
        return True

    def tail(self, ref: JobRef, stream: str, lines: int) -> str:  # noqa: ARG002
        """Return nothing."""
        return ""

    def url(self, path: str) -> str:
        """Return a ``file://`` URL."""
        return f"file://{quote(path)}"


def _raise_next(errors: deque[Exception]) -> None:
    if errors:
        raise errors.popleft()
