"""Processes as ``/proc`` shows them: who lives, who belongs to a job, and how to signal them.

A pid alone names nothing, since the kernel gives it away again. A process is named by host, boot,
pid namespace, pid and start time; a job's processes are recognised by the token in their
environment, by their session and by their parents.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final

_TOKEN: Final = b"WLM_JOB_TOKEN="
#: not running any more: zombie, dead
_GONE: Final = frozenset({b"Z", b"X"})
#: place of the start time among the fields after the session (field 22 of all)
_START_TIME: Final = 15


@dataclass(frozen=True, slots=True)
class Place:
    """Where a pid means something."""

    host: str
    boot: str  #: id of the kernel's boot
    machine: str  #: id of the installation, empty where there is none (containers)
    namespace: str  #: pid namespace: containers of one host count their processes apart


@dataclass(frozen=True, slots=True)
class Process:
    """One process at one moment."""

    pid: int
    start: int  #: in clock ticks after the boot: with the pid the process's identity
    parent: int
    session: int
    token: str | None = None  #: of the job in whose environment it was started


class ProcessTable:
    """The processes of this host at one moment, zombies left out."""

    def __init__(self, processes: Iterable[Process]) -> None:
        self._by_pid: dict[int, Process] = {}
        self._by_token: defaultdict[str | None, list[Process]] = defaultdict(list)
        self._by_session: defaultdict[int, list[Process]] = defaultdict(list)
        self._by_parent: defaultdict[int, list[Process]] = defaultdict(list)
        for process in processes:
            self._by_pid[process.pid] = process
            self._by_token[process.token].append(process)
            self._by_session[process.session].append(process)
            self._by_parent[process.parent].append(process)

    def of_job(self, token: str, leader: tuple[int, int] | None) -> dict[int, Process]:
        """Return the job's processes by pid: with its token, of its session, and their children.

        `leader` is pid and start time of the session's leader, if known.
        """
        waiting = list(self._by_token.get(token, ()))
        if leader is not None and self._is_ours(*leader):
            waiting += self._by_session.get(leader[0], ())
        found: dict[int, Process] = {}
        while waiting:
            process = waiting.pop()
            if process.pid not in found:
                found[process.pid] = process
                waiting += self._by_parent.get(process.pid, ())
        return found

    def _is_ours(self, pid: int, start: int) -> bool:
        # a dead leader's pid stays taken as long as its session has members
        return pid not in self._by_pid or self._by_pid[pid].start == start


@cache
def here() -> Place:
    """Return the place this process runs in."""
    host = _read("/proc/sys/kernel/hostname")
    namespace = ""
    with contextlib.suppress(OSError):
        namespace = "".join(filter(str.isdigit, str(Path("/proc/self/ns/pid").readlink())))
    return Place(
        host="".join(c for c in host if c.isascii() and (c.isalnum() or c in "._-")),
        boot=_read("/proc/sys/kernel/random/boot_id"),
        machine=_read("/etc/machine-id"),
        namespace=namespace,
    )


def look_up(pid: int) -> Process | None:
    """Return the process of this pid, without its token; None if it is gone or a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - called a thousand times
            stat = file.read()
    except OSError:
        return None
    # the second field, the name, is in brackets and may hold anything, brackets too
    state, parent, _group, session, *more = stat.rpartition(b")")[2].split()
    if state in _GONE:
        return None
    return Process(pid, int(more[_START_TIME]), parent=int(parent), session=int(session))


def scan() -> ProcessTable:
    """Look at every process of this host."""
    return ProcessTable(_all_processes())


def _all_processes() -> Iterator[Process]:
    for name in os.listdir("/proc"):  # noqa: PTH208 - a Path for each of thousands is slow
        if name.isdigit() and (found := look_up(int(name))) is not None:
            yield replace(found, token=_token_of(found.pid))


def command_line(pid: int) -> list[str]:
    """Return the arguments the process was started with, empty if it is gone."""
    try:
        return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).split("\0")[:-1]
    except OSError:
        return []


def send(processes: Iterable[Process], *signals: signal.Signals) -> None:
    """Send the signals to those of the processes that still live; others are passed over."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            handle = os.pidfd_open(process.pid)
            try:
                now = look_up(process.pid)
                # the handle keeps the pid from meaning another process after this look
                if now is None or now.start != process.start:
                    continue
                for number in signals:
                    signal.pidfd_send_signal(handle, number)
            finally:
                os.close(handle)


def _token_of(pid: int) -> str | None:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123 - as above
            environ = file.read()
    except OSError:
        return None
    if _TOKEN not in environ:
        return None
    for entry in environ.split(b"\0"):
        if entry.startswith(_TOKEN):
            return os.fsdecode(entry[len(_TOKEN) :])
    return None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="ignore").strip()
    except OSError:
        return ""
