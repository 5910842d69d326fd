"""The directory of one submit attempt: the files by which a job is started once and judged.

========== ==============================================================================
lock       flock of whoever submits or cancels; a kill gives it back
payload.sh the user's script
job.sh     what guards it, see `wlm_tasks.compute.job_script`
started    the claim: made once, whole, and never changed; only its maker runs the payload
stdout     what the payload wrote; also ``stderr``
exit.json  the evidence of the end, renamed into place
alive      flock of all that lives of the job, see `wlm_tasks.compute.alive`
cancelled  the wish that the job never start, or end
asked      who was sent the stop signal, and since when, see `wlm_tasks.compute.stopping`
duplicates a line for each further copy of the job, which left without running anything
job.log    what the guard itself has to say
========== ==============================================================================
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any, Final

from wlm_tasks.compute.base import JobRef
from wlm_tasks.compute.processes import Place, here
from wlm_tasks.errors import BackendUnavailableError, JobRejectedError

#: longest wait for another submitter or canceller of the same attempt, in seconds
LOCK_WAIT_S: Final = 30.0
_TOKEN: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
#: of an installation; images may hold a word instead, the same in all their containers
_MACHINE_ID: Final = re.compile(r"[0-9a-f]{32}")
_NATIVE_ID: Final = re.compile(r"([^:]*):([^:]+):([0-9]+):([0-9]+)")


class Where(Enum):
    """Where a claim was made, seen from here."""

    HERE = auto()
    BEFORE_REBOOT = auto()  #: on this machine, before it was started again
    OTHER_CONTAINER = auto()  #: under this kernel, where pids mean others: locks tell who lives
    ELSEWHERE = auto()  #: on another machine: neither pids nor locks say anything here
    NOWHERE = auto()  #: by a cancel, so that nothing ever runs


@dataclass(frozen=True, slots=True)
class Claim:
    """Who runs the payload."""

    pid: int
    start: int
    host: str
    boot: str
    machine: str
    namespace: str
    epoch: float  #: when it was made
    limit_s: float  #: seconds after which the job has ended, its time limit and grace
    alive: str = ""  #: the file that all of the job holds locked, empty if there is none

    @property
    def native_id(self) -> str:
        """The job's id on its site: ``HOST:BOOT:PID:START``."""
        return f"{self.host}:{self.boot[:8]}:{self.pid}:{self.start}"

    @property
    def where(self) -> Where:
        """Where the claim was made, seen from here."""
        return self.seen_from(here())

    def seen_from(self, place: Place) -> Where:
        """Where the claim was made, seen from a place."""
        if self.pid == 0:
            return Where.NOWHERE
        # the boot id is the kernel's own; a host's name may change or be given twice
        if self.boot[:8] == place.boot[:8]:
            return Where.HERE if self.namespace == place.namespace else Where.OTHER_CONTAINER
        # it may have come back under another name
        known = _MACHINE_ID.fullmatch(self.machine) or self.host == place.host
        if known and self.machine == place.machine:
            return Where.BEFORE_REBOOT
        return Where.ELSEWHERE

    @classmethod
    def of_json(cls, data: Mapping[str, Any], place: Place) -> Claim:
        """Return what the claim's file says; of a file without sense, that somebody has claimed."""
        try:
            return cls(
                pid=int(data["pid"]),
                start=int(data["start"]),
                host=str(data["host"]),
                boot=str(data["boot"]),
                machine=str(data["machine"]),
                namespace=str(data["namespace"]),
                epoch=float(data["epoch"]),
                limit_s=float(data["limit"]),
                alive=str(data.get("alive", "")),
            )
        except (KeyError, TypeError, ValueError):
            # it was put in place whole, so only a power cut can have emptied it: it still counts
            return cls(-1, 0, place.host, "", place.machine, place.namespace, 0.0, 0.0)

    @classmethod
    def of_native_id(cls, native_id: str | None, place: Place | None = None) -> Claim | None:
        """Return what a native id still tells, at a place, when the claim's file is gone."""
        match = _NATIVE_ID.fullmatch(native_id or "")
        if match is None:
            return None
        host, boot, pid, start = match.groups()
        place = place or here()
        # it does not tell the machine: another host's name must not pass for an old one of ours
        machine = place.machine if host == place.host else ""
        return cls(int(pid), int(start), host, boot, machine, place.namespace, 0.0, math.inf)


@dataclass(frozen=True, slots=True)
class ExitRecord:
    """How a job ended, in the guard's words."""

    code: int | None
    start: float | None
    end: float | None
    reason: str  #: exit, signal, walltime, cancelled, or what kept the payload from starting

    @classmethod
    def of_json(cls, data: Mapping[str, Any]) -> ExitRecord:
        """Return what the record's file says."""
        return cls(
            code=_number(data.get("code"), int),
            start=_number(data.get("start"), float),
            end=_number(data.get("end"), float),
            reason=str(data.get("reason", "")),
        )


def check_token(token: str) -> None:
    """Raise `JobRejectedError` for a token that could not be a directory's name."""
    if not _TOKEN.fullmatch(token):
        raise JobRejectedError(
            f"token: got {token[:100]!r}, expected 1 to 100 letters, digits, . _ -"
        )


class Attempt:
    """The files of one attempt. Reading needs no lock; `locked` is for submit and cancel."""

    def __init__(self, ref: JobRef) -> None:
        check_token(ref.token)
        self.ref = ref
        self.path = ref.attempt_dir

    def file(self, name: str) -> str:
        """Return the path of one of its files."""
        return f"{self.path}/{name}"

    @contextlib.contextmanager
    def locked(self, wait_s: float | None = None) -> Iterator[None]:
        """Make the directory and hold its lock.

        Raises `BackendUnavailableError` if another holds it for `wait_s`, by default `LOCK_WAIT_S`.
        """
        os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)  # noqa: PTH103, PTH120
        Path(self.path).mkdir(mode=0o700, exist_ok=True)
        fd = os.open(self.file("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._take(fd, LOCK_WAIT_S if wait_s is None else wait_s)
            yield
        finally:
            os.close(fd)

    def _take(self, fd: int, wait_s: float) -> None:
        deadline = time.monotonic() + wait_s
        pause = 0.001
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise BackendUnavailableError(
                        f"{self.file('lock')}: held by another submit or cancel for {wait_s:g} s"
                    ) from None
                time.sleep(pause)
                pause = min(2 * pause, 0.05)
            else:
                return

    @property
    def cancelled(self) -> bool:
        """True once a cancel has said so."""
        return os.path.lexists(self.file("cancelled"))

    def cancelled_for_s(self) -> float:
        """Return how long ago a cancel said so, in seconds; 0 if none did."""
        try:
            return max(0.0, time.time() - os.stat(self.file("cancelled")).st_mtime)  # noqa: PTH116
        except OSError:
            return 0.0

    def mark_cancelled(self) -> None:
        """Say that the job is to end, and make sure that it never starts if it has not.

        To be called with the lock held. The claim is the last word: a copy of the job that is
        already on its way finds it taken.
        """
        # not touch(1), which would renew the time of a mark that is there
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        os.close(os.open(self.file("cancelled"), flags, 0o600))
        self.take_claim()

    def take_claim(self) -> None:
        """Take the claim, unless it is taken, for a process that nobody has: nothing will run."""
        place = here()
        claim = {
            "pid": 0,
            "start": 0,
            "host": place.host,
            "boot": place.boot,
            "machine": place.machine,
            "namespace": place.namespace,
            "epoch": time.time(),
            "limit": 0,
        }
        self._create("started", json.dumps(claim))

    def claim(self) -> Claim | None:
        """Return the claim, None if there is none yet."""
        data = _read_json(self.file("started"))
        if data is None:
            return None
        return Claim.of_json(data, here())

    def exit(self) -> ExitRecord | None:
        """Return how the job ended, None if there is no evidence (yet)."""
        data = _read_json(self.file("exit.json"))
        return ExitRecord.of_json(data) if data else None

    def record_cancelled(self, claim: Claim | None) -> None:
        """Write the evidence that the job's own guard could not write, unless it did.

        To be called with the lock held.
        """
        started = (claim.epoch or None) if claim is not None and claim.pid else None
        record = {"code": None, "start": started, "end": time.time(), "reason": "cancelled"}
        self._create("exit.json", json.dumps(record))

    def write(self, name: str, text: str) -> None:
        """Put a file in place by renaming: a copy of the job may be reading the old one."""
        temporary = self.file(f"{name}.{os.getpid()}.new")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            file.write(text)
        os.replace(temporary, self.file(name))  # noqa: PTH105

    def _create(self, name: str, text: str) -> None:
        """Put a whole file in place unless there is one: link(2) is exclusive as O_EXCL is."""
        if os.path.lexists(self.file(name)):
            return  # as it must on a full disk
        self.write(f"{name}.mine", text)
        with contextlib.suppress(FileExistsError):
            os.link(self.file(f"{name}.mine"), self.file(name))
        Path(self.file(f"{name}.mine")).unlink(missing_ok=True)


def _read_json(path: str) -> dict[str, Any] | None:
    """Return the object in a file, None without the file, an empty one if it holds none."""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - called a thousand times
            data = file.read(65_536)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise BackendUnavailableError(f"{path}: {error.strerror}") from error
    with contextlib.suppress(ValueError):
        value = json.loads(data)
        if isinstance(value, dict):
            return value
    return {}


def _number(value: Any, kind: type[int] | type[float]) -> Any:
    return kind(value) if isinstance(value, int | float) else None
