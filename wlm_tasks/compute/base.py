"""What a site must be able to do: the interface of every compute backend."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from wlm_tasks.errors import BackendUnavailableError, WlmError
from wlm_tasks.hosts.shell import Shell
from wlm_tasks.model.arrays import InArray
from wlm_tasks.model.ends import Directory
from wlm_tasks.model.experiment import Resources, Transfer


class JobState(StrEnum):
    """How a job stands on its site, in words every kind of site shares."""

    PENDING = "PENDING"  #: accepted by the site, not started
    RUNNING = "RUNNING"  #: its payload runs
    SUCCEEDED = "SUCCEEDED"  #: ended, exit code 0, with evidence
    FAILED = "FAILED"  #: ended otherwise, with evidence (exit code, time limit, signal)
    CANCELLED = "CANCELLED"  #: ended by a cancel
    LOST = "LOST"  #: certainly gone and left no evidence of how it ended
    UNKNOWN = "UNKNOWN"  #: the site could not tell; ask again


ENDED: Final = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.LOST})


#: longest that a cancel waits for the end of a job, in seconds, if it is given no other time
CANCEL_WAIT_S: Final = 6.0


@dataclass(frozen=True, kw_only=True)
class JobRef:
    """Names one job on a site: enough to ask about it, cancel it and read its output."""

    token: str  #: unique per submit attempt, made before anything is sent; the job's name
    workdir: str  #: the experiment's directory on the site, absolute
    native_id: str | None = None  #: the site's own id, None while unknown
    #: the array it was to be submitted in; whether it was, only the site knows
    array: InArray | None = None
    stop_signal: str = "TERM"  #: first signal of a cancel
    stop_grace_s: float = 10.0  #: seconds between that signal and KILL

    @property
    def attempt_dir(self) -> str:
        """The attempt's own directory: claim and exit markers, script, stdout, stderr."""
        return f"{self.workdir}/.wlm/{self.token}"


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """All a site needs to start one job."""

    ref: JobRef
    script: str  #: bash: environment lines, then the commands; stops at the first that fails
    resources: Resources
    variables: Mapping[str, str] = field(default_factory=dict)  #: environment of the payload
    name: str = ""  #: the experiment's name, for people
    priority: int = 0  #: 0 to 9, a higher number goes first, where the site has such a thing
    #: files, for sites that carry them with the job; elsewhere staging moves them
    inputs: Sequence[Transfer] = ()
    outputs: Sequence[Transfer] = ()


@dataclass(frozen=True, kw_only=True)
class JobStatus:
    """What a site knows of one job. Times are seconds since the epoch."""

    state: JobState
    exit_code: int | None = None
    started_at: float | None = None
    ended_at: float | None = None
    reason: str = ""  #: in the site's own words where it has any


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """A job the site has accepted, and how it stands if the site said so at once."""

    native_id: str
    status: JobStatus | None = None


@dataclass(frozen=True, kw_only=True)
class SiteLoad:
    """How many jobs our account has at a site, whoever handed them in."""

    queued: int  #: accepted, not started
    running: int
    foreign: int  #: how many of both are not ours


def check_room(workdir: str, free_mb: int, needed_mb: int | None) -> None:
    """Raise `BackendUnavailableError` if there is less room at a directory than asked for.

    Both in MiB; somebody may make room, so it is tried again.
    """
    if needed_mb is not None and free_mb < needed_mb:
        raise BackendUnavailableError(
            f"{workdir}: No space left for it: {free_mb} MiB are free, {needed_mb} needed"
        )


class SiteStore(ABC):
    """The files of a site whose directories the worker does not see itself.

    Its ends may raise what a `ComputeBackend` may; a lasting fault is `StorageRefusedError`.
    """

    @abstractmethod
    def directory(self, workdir: str) -> Directory:
        """Return an experiment's directory; raises `JobRejectedError` if it is not the site's."""

    @property
    @abstractmethod
    def shell(self) -> Shell:
        """The shell of the host that has the directories."""


class ComputeBackend(ABC):
    """One configured site.

    Methods may raise only `BackendUnavailableError` (nothing is known, try later) and
    `PermanentError` subclasses such as `JobRejectedError` (a definite refusal), the original
    error as ``__cause__``. Each is safe to call again, from any process, after a crash at any
    line of an earlier call.
    """

    @abstractmethod
    def prepare(
        self,
        workdir: str,
        token: str | None = None,
        *,
        disk_mb: int | None = None,
        mark: int | None = None,
    ) -> None:
        """Make the experiment's directory (mode 0700) and check that it can be written.

        `BackendUnavailableError` as well if less than `disk_mb` MiB are free there, unless jobs
        carry their files and ask for room where they run.

        `token` is that of the first job to come: where it saves a command on a login host, the
        directory of its attempt is made, too. `mark` is written to the directory before anything
        else: a removal that was begun before leaves it alone.
        """

    @abstractmethod
    def submit(self, spec: JobSpec) -> Submitted:
        """Start the job of this token unless it was started before; look before you submit.

        After return the job exists once, whoever called and however often. Raises
        `JobCancelledError` if the token was cancelled first: then it never starts.
        """

    @property
    def batch(self) -> int:
        """Most jobs that `submit_many` takes in one call; below 2 it is never called."""
        return 1

    def submit_many(self, specs: Sequence[JobSpec]) -> dict[str, Submitted | WlmError]:
        """Start jobs of one array, as `submit` would each of them; by token, what came of it.

        Their resources are equal, and their refs name one array. What `submit` would raise for
        one of them is its answer; raised is only what leaves all of them open.
        """
        result: dict[str, Submitted | WlmError] = {}
        for spec in specs:
            try:
                result[spec.ref.token] = self.submit(spec)
            except WlmError as error:
                result[spec.ref.token] = error
        return result

    @abstractmethod
    def status(self, refs: Sequence[JobRef]) -> dict[str, JobStatus]:
        """The state of many jobs by token, in one request to the site.

        A job the site does not list is UNKNOWN or LOST by evidence, never ended well.
        """

    @abstractmethod
    def find(self, ref: JobRef) -> str | None:
        """The native id of this token's job, None if the site has none (yet)."""

    @abstractmethod
    def cancel(self, ref: JobRef, *, wait_s: float = CANCEL_WAIT_S) -> bool:
        """End the job; True once it is certain that nothing runs and nothing will start.

        False after `wait_s` seconds at most: it is asked again every few seconds then. So that
        the job has its whole grace but once, what was begun goes on and is not begun anew.
        """

    @abstractmethod
    def tail(self, ref: JobRef, stream: str, lines: int) -> str:
        """The last lines of the job's ``stdout`` or ``stderr``; empty if there is none yet."""

    @abstractmethod
    def url(self, path: str) -> str:
        """A URL by which staging reaches an absolute path on the site."""

    def load(self) -> SiteLoad | None:
        """How many jobs the account has there; None where the site does not tell, or not now.

        Asked after a poll, so an answer that came with the jobs' states costs no request.
        """
        return None

    def accounting_trouble(self) -> str | None:
        """Why the site cannot tell about jobs long ended, as its last poll found; None if it can.

        Asks nothing. For sites where the records of ended jobs are a service of their own.
        """
        return None

    def discard(self, workdir: str, mark: int | None = None) -> bool:  # noqa: ARG002 - it cannot
        """Remove a directory made by `prepare`; False where the site cannot do that from here.

        True, too, if there is none. It loses its name in one moment; what takes longer than a call
        may is gone on with by the next one. Raises `JobRejectedError` only as long as it has its
        name, as for a higher mark than `mark`: somebody uses it again. Without `mark` nobody can.
        """
        return False

    def caveats(self) -> tuple[str, ...]:
        """What this site cannot promise as it is set up, a sentence each."""
        return ()

    def links(self, ref: JobRef) -> dict[str, str]:  # noqa: ARG002 - for those that have some
        """Pages on which a person finds the job, by name; empty where a site has none."""
        return {}

    @property
    def files(self) -> SiteStore | None:
        """How files get to the site; None if the worker sees the site's directories itself."""
        return None

    @property
    def carries_files(self) -> bool:
        """Whether the job itself gets its inputs and sends its outputs; then staging does nothing.

        `files` and `url` are not used then, and `check_transfers` says what it can carry.
        """
        return False

    def check_transfers(  # noqa: B027 - staging checks the transfers of all other sites
        self, inputs: Sequence[Transfer], outputs: Sequence[Transfer]
    ) -> None:
        """Raise `InvalidPathError` for a file that a job of this site could not carry.

        Asked when an experiment is handed in. Looks at the text alone.
        """

    def close(self) -> None:
        """Give back connections. Using the backend afterwards opens them again."""
        return
