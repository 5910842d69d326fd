"""An agent as far as it matters here: Mesos's fetcher, then Thermos with a task's processes.

Words and places are those of Mesos 1.x and of Aurora's executor: files are fetched to the directory
of the container, processes run in ``sandbox`` below it, in order, with bash, and the task's last
message says neither which process failed nor how.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from services.guardian import MARKER

_NAME: Final = re.compile(r"[^./][^/]*")
_BRACES: Final = re.compile(r"\{\{(.*?)\}\}")


class BadTaskError(Exception):
    """What the executor refuses on the agent, long after the scheduler has accepted it."""


class FetchError(Exception):
    """A container that is not launched, since a file of it cannot be had."""


def session_members(leader: int) -> list[int]:
    """Pids of the live processes of a session."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit():
                stat = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                if int(stat[3]) == leader and stat[0] not in "ZX":
                    found.append(int(entry.name))
    return found


class Run:
    """One task on an agent, in a thread of its own. `result` is its end, None while it runs."""

    def __init__(self, task_id: str, data: str, directory: Path, uris: Sequence[Any] = ()) -> None:
        self.result: str | None = None
        self.message = ""
        self._id = task_id
        self._data = data
        self._directory = directory
        self._sandbox = directory / "sandbox"
        self._uris = uris
        self._stopping = threading.Event()  #: no further ordinary process
        self._dead = threading.Event()  #: the agent is gone
        self._current: subprocess.Popen[bytes] | None = None
        threading.Thread(target=self._work, daemon=True).start()

    def stop(self, grace_s: float) -> None:
        """Ask it to end, kill it when the grace is over; final processes run."""
        self._stopping.set()
        self._signal_leader(signal.SIGTERM)
        timer = threading.Timer(grace_s, self._kill_session)
        timer.daemon = True
        timer.start()

    def die(self) -> None:
        """End it as the loss of its agent does: no final process, nothing left."""
        self._dead.set()
        self._stopping.set()
        self._kill_session()

    def _work(self) -> None:
        try:
            self._directory.mkdir(parents=True)
            _fetch(self._uris, self._directory)
            ordinary, final = _processes(json.loads(self._data), self._id)
            self._sandbox.mkdir()
            good = all(self._run(name, command) for name, command in ordinary)
            for name, command in final:
                if not self._dead.is_set():
                    self._run(name, command, final=True)
            self.message = "Task finished." if good else "Task failed."
        except FetchError as error:
            good, self.message = False, f"Failed to launch container: {error}"
        except (BadTaskError, ValueError, KeyError) as error:
            good, self.message = False, f"{type(error).__name__}: {error}"
        self.result = "FINISHED" if good else "FAILED"

    def _run(self, name: str, command: str, *, final: bool = False) -> bool:
        if self._stopping.is_set() and not final:
            return False
        environ = {"PATH": os.environ["PATH"], "HOME": str(self._sandbox)}
        if MARKER in os.environ:
            environ[MARKER] = os.environ[MARKER]
        with (self._sandbox / f"{name}.log").open("ab") as log:
            self._current = process = subprocess.Popen(
                ["bash", "-c", command],
                cwd=self._sandbox,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if self._dead.is_set():
            self._kill_session()
        elif self._stopping.is_set() and not final:
            self._signal_leader(signal.SIGTERM)
        code = process.wait()
        if not final:
            self._kill_session()  # as the end of the container does
        return code == 0

    def _signal_leader(self, number: int) -> None:
        if self._current is not None and self._current.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._current.pid, number)

    def _kill_session(self) -> None:
        leader = self._current
        if leader is None:
            return
        deadline = time.monotonic() + 5
        while (left := session_members(leader.pid)) and time.monotonic() < deadline:
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)


def _fetch(uris: Sequence[Any], directory: Path) -> None:
    """Bring the files into the container's directory; its log there is that of the fetcher."""
    for uri in uris:
        _scheme, _, path = uri.value.partition("://")
        if set(uri.value) & set("\\'\0"):
            raise FetchError("Could not fetch: Illegal characters in URI")
        if "/" not in path or (path.endswith("/") and path.count("/") == 1):
            raise FetchError(f"Could not fetch: Malformed URI (missing path): {uri.value}")
        name = path.rpartition("/")[2]
        command = ["curl", "-q", "-g", "-sSfL", "-o", directory / name, "--url", uri.value]
        with (directory / "stderr").open("ab") as log:
            done = subprocess.run(command, stderr=log, stdin=subprocess.DEVNULL, check=False)
        if done.returncode:
            where = f"Failed to fetch all URIs for container '{directory.name}'"
            raise FetchError(f"{where}: exited with status 1")
        if uri.extract or uri.cache:
            raise FetchError("this would be unpacked, or be an old copy")


def _processes(data: dict[str, Any], task_id: str) -> tuple[list[Any], list[Any]]:
    """Names and commands of ordinary and of final processes, in the order in which they run."""
    task = data["task"]
    for key in ("role", "environment"):
        if not data.get(key):
            raise BadTaskError(f"{key} is required")
    given = {"thermos.task_id": task_id, "mesos.instance": "0", "thermos.user": data["role"]}
    commands = {p["name"]: _bind(p["cmdline"], given) for p in task["processes"]}
    if len(commands) < len(task["processes"]) or not all(map(_NAME.fullmatch, commands)):
        raise BadTaskError("Cycles detected")
    if any(p.get("max_failures", 1) != 1 for p in (task, *task["processes"])):
        raise BadTaskError("this would be tried again or never fail")
    final = [p["name"] for p in task["processes"] if p.get("final")]
    ordinary = _ordered([name for name in commands if name not in final], task)
    return [(n, commands[n]) for n in ordinary], [(n, commands[n]) for n in final]


def _bind(command: str, given: dict[str, str]) -> str:
    def bound(match: re.Match[str]) -> str:
        if match[1] not in given:
            raise BadTaskError(f"Unexpected unbound refs: {match[0]}")
        return given[match[1]]

    return _BRACES.sub(bound, command)


def _ordered(names: list[str], task: dict[str, Any]) -> list[str]:
    random.shuffle(names)  # nothing but an order orders them
    for constraint in task.get("constraints", ()):
        order: list[str] = constraint["order"]
        if any(name not in names for name in order):
            raise BadTaskError("Invalid process dependencies!")
        names = [name for name in names if name not in order] + order
    return names
