"""The local site: jobs are processes of this host that outlive whoever started them."""

from __future__ import annotations

import errno
import functools
import os
import pwd
import secrets
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, ParamSpec, TypeVar
from urllib.parse import quote

from wlm_tasks.compute import alive, evidence
from wlm_tasks.compute.attempt import Attempt, Claim, Where
from wlm_tasks.compute.base import (
    CANCEL_WAIT_S,
    ComputeBackend,
    JobRef,
    JobSpec,
    JobStatus,
    Submitted,
    check_room,
)
from wlm_tasks.compute.job_script import render
from wlm_tasks.compute.processes import here
from wlm_tasks.compute.remote import SiteFiles
from wlm_tasks.compute.stopping import Stopper
from wlm_tasks.errors import (
    BackendUnavailableError,
    ConfigError,
    JobCancelledError,
    JobRejectedError,
)
from wlm_tasks.hosts.shell import LocalShell

#: longest wait for a started job to make its claim, in seconds
CLAIM_WAIT_S: Final = 30.0
#: most that `tail` reads of a file, in bytes
TAIL_BYTES: Final = 256 * 1024
_MIB: Final = 1024 * 1024
#: what a job inherits of the environment of whoever starts it
_INHERITED: Final = ("PATH", "HOME", "USER", "LANG", "TMPDIR", "SHELL")
_PATH: Final = "/usr/local/bin:/usr/bin:/bin"
#: faults of a file system that pass, or that an operator mends; all others are refusals
_PASSING: Final = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EIO,
        errno.ESTALE,
        errno.ENFILE,
        errno.EMFILE,
        errno.EAGAIN,
        errno.ENOMEM,
        errno.EINTR,
        errno.ETIMEDOUT,
    }
)

_P = ParamSpec("_P")
_R = TypeVar("_R")


def translated(method: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let only the errors out that the interface names, of methods that work on files."""

    @functools.wraps(method)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return method(*args, **kwargs)
        except OSError as error:
            place = error.filename or _place(args[1])
            text = f"{place}: {error.strerror or error}"
            kind = BackendUnavailableError if error.errno in _PASSING else JobRejectedError
            raise kind(text) from error

    return wrapper


def _place(subject: object) -> str:
    """Return where a call works on, for errors that do not say."""
    if isinstance(subject, JobSpec):
        subject = subject.ref
    return subject.attempt_dir if isinstance(subject, JobRef) else str(subject)


def _write_first_mark(directory: Path) -> None:
    """Write the mark of a first `prepare`, where `discard` looks for it; another's stays."""
    directory.mkdir(mode=0o700, exist_ok=True)
    with suppress(FileExistsError), (directory / "setup").open("x") as file:
        file.write("1\n")


class LocalBackend(ComputeBackend):
    """Runs jobs on this host, below the directory `scratch`; see `Attempt` for their files."""

    def __init__(
        self, *, name: str, scratch: str, options: Mapping[str, object], bells: str | None = None
    ) -> None:
        if options:
            raise ConfigError(
                f"sites.{name}.{sorted(options)[0]}: got a value, expected none:"
                " a local site has no such setting"
            )
        self.name = name
        self._scratch = os.path.normpath(scratch.replace("{user}", _user()))
        if not os.path.isabs(self._scratch):  # noqa: PTH117
            raise ConfigError(f"sites.{name}.scratch: got {scratch!r}, expected an absolute path")
        self._bells = bells

    @translated
    def prepare(
        self,
        workdir: str,
        token: str | None = None,  # noqa: ARG002
        *,
        disk_mb: int | None = None,
        mark: int | None = None,
    ) -> None:
        """Make the experiment's directory, check that it takes files, hard links and `disk_mb`."""
        self.check_inside(workdir)
        if mark is not None and mark > 1:  # a removal may be at work
            files = SiteFiles(LocalShell(), self._scratch)
            files.prepare(workdir, ("flock",), disk_mb=disk_mb, mark=mark)
            return
        path = Path(workdir)
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
        if mark is not None:
            _write_first_mark(path / ".wlm")
        if disk_mb is not None:
            check_room(workdir, shutil.disk_usage(path).free // _MIB, disk_mb)
        probe = f"{workdir}/.wlm-probe-{secrets.token_hex(8)}"
        other = f"{probe}-link"
        try:
            fd = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(b"\0" * 4096)
            os.link(probe, other)
        finally:
            for name in (probe, other):
                with suppress(OSError):
                    Path(name).unlink()

    def discard(self, workdir: str, mark: int | None = None) -> bool:
        """Remove the directory and what is in it; one that is not there is gone already."""
        self.check_inside(workdir)
        return SiteFiles(LocalShell(), self._scratch).discard(workdir, mark)

    @translated
    def submit(self, spec: JobSpec) -> Submitted:
        """Start the job unless its claim is there; return once its claim is there."""
        self.check_inside(spec.ref.workdir)
        if spec.resources.nodes > 1:
            raise JobRejectedError(
                f"resources.nodes: got {spec.resources.nodes}, expected 1 on a local site"
            )
        script = render(spec, bells=self._bells)
        if not Path(spec.ref.workdir).is_dir():
            raise JobRejectedError(f"{spec.ref.workdir}: no such directory, was it prepared?")
        attempt = Attempt(spec.ref)
        with attempt.locked():
            if attempt.cancelled:
                raise JobCancelledError(f"job {spec.ref.token} was cancelled before it started")
            claim = attempt.claim()
            if claim is None:
                attempt.write("payload.sh", f"{spec.script}\n")
                attempt.write("job.sh", script)
                _start(attempt)
                claim = _await_claim(attempt)
        return Submitted(native_id=claim.native_id)

    def status(self, refs: Sequence[JobRef]) -> dict[str, JobStatus]:
        """Judge by the files; look at all processes at most once, and only if one seems lost."""
        return evidence.judge(refs)

    @translated
    def find(self, ref: JobRef) -> str | None:
        """Return the native id from the claim."""
        claim = Attempt(ref).claim()
        return None if claim is None or claim.where is Where.NOWHERE else claim.native_id

    @translated
    def cancel(self, ref: JobRef, *, wait_s: float = CANCEL_WAIT_S) -> bool:
        """Take the claim, or go on with ending the job's processes until none is left.

        False while something still lives, or if the job runs in another living container or on
        another host of a shared file system.
        """
        self.check_inside(ref.workdir)
        attempt = Attempt(ref)
        with attempt.locked(wait_s):
            if attempt.exit() is None:
                attempt.mark_cancelled()
            claim = attempt.claim()
        if claim is not None and evidence.out_of_sight(attempt, claim) is not False:
            return attempt.exit() is not None
        if not Stopper(attempt, claim, wait_s).run():
            return False
        with attempt.locked(wait_s):
            attempt.record_cancelled(claim)
        return True

    @translated
    def tail(self, ref: JobRef, stream: str, lines: int) -> str:
        """Return the last lines, of at most `TAIL_BYTES` bytes; bytes not UTF-8 become U+FFFD."""
        if stream not in {"stdout", "stderr"}:
            raise ValueError(f"stream: got {stream!r}, expected stdout or stderr")
        # the payload can put anything there: no link is followed, no FIFO waited for
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = os.open(Attempt(ref).file(stream), flags)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ELOOP}:
                return ""
            raise
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                return ""
            data = os.pread(fd, TAIL_BYTES, max(0, status.st_size - TAIL_BYTES))
        finally:
            os.close(fd)
        text = data.decode(errors="replace")
        return "".join(text.splitlines(keepends=True)[-lines:]) if lines > 0 else ""

    def url(self, path: str) -> str:
        """Return the path as a ``file://`` URL."""
        return f"file://{quote(os.fsencode(path))}"

    def check_inside(self, workdir: str) -> None:
        """Raise `JobRejectedError` for a directory that is not below the scratch directory."""
        scratch = Path(self._scratch)
        # by its text and by where links lead
        if (
            "\0" in workdir
            or os.path.normpath(workdir) != workdir
            or scratch not in Path(workdir).parents
            or scratch.resolve() not in Path(workdir).resolve().parents
        ):
            raise JobRejectedError(
                f"workdir: got {workdir!r}, expected a directory below {self._scratch}"
            )


def _start(attempt: Attempt) -> None:
    """Start the guard in a session of its own, child of nobody here, with default signals."""
    command = ["setsid", "--fork", "env", "--default-signal", "bash", attempt.file("job.sh")]
    environ = _environment() | {"WLM_JOB_TOKEN": attempt.ref.token}
    try:
        # locked before the claim is made: there never is a claim of a living job without it
        with alive.held(attempt.file("alive")) as lock:
            result = subprocess.run(
                [*command, here().namespace, lock.file if lock else ""],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=attempt.ref.workdir,
                env=environ,
                pass_fds=(lock.fd,) if lock else (),
                check=False,
            )
    except FileNotFoundError as error:
        if error.filename != command[0]:
            raise
        raise BackendUnavailableError(
            "setsid: not found; a local site needs bash, coreutils and util-linux"
        ) from error
    if result.returncode:
        raise BackendUnavailableError(f"setsid: could not start a job, exit {result.returncode}")


def _await_claim(attempt: Attempt) -> Claim:
    deadline = time.monotonic() + CLAIM_WAIT_S
    pause = 0.0005
    while (claim := attempt.claim()) is None:
        if time.monotonic() > deadline:
            log = Path(attempt.file("job.log"))
            said = log.read_text(errors="replace")[-500:].strip() if log.exists() else ""
            raise BackendUnavailableError(
                f"job {attempt.ref.token}: not started within {CLAIM_WAIT_S:g} s;"
                f" its guard says: {said or 'nothing'}"
            )
        time.sleep(pause)
        pause = min(1.5 * pause, 0.02)
    return claim


def _environment() -> dict[str, str]:
    user = _user()
    defaults = {"PATH": _PATH, "HOME": _home(), "USER": user, "SHELL": shutil.which("bash") or ""}
    inherited = {name: os.environ[name] for name in _INHERITED if os.environ.get(name)}
    return defaults | inherited


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container may run under a uid without a name
        return str(os.getuid())


def _home() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return "/"
