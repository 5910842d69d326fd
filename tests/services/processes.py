"""Child processes for tests: own session, log file, certain end."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

from services.guardian import MARKER

T = TypeVar("T")

_POLL_S: Final = 0.02


def wait_for(
    condition: Callable[[], T],
    timeout: float = 10.0,
    what: str = "the condition",
    interval: float = _POLL_S,
) -> T:
    """Ask until the answer is true and return it; `TimeoutError` after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not (answer := condition()):
        if time.monotonic() >= deadline:
            raise TimeoutError(f"{what}: not within {timeout:g} s")
        time.sleep(interval)
    return answer


def script(name: str) -> str:
    """Path of a command installed beside this Python, such as ``wlm`` or ``celery``."""
    return str(Path(sys.executable).with_name(name))


def alive(pid: int) -> bool:
    """True while the process runs; a zombie that nobody has waited for is not alive."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def children(pid: int) -> list[int]:
    """Pids of the live direct children of a process."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] not in ("Z", "X"):
            found.append(int(entry.name))
    return sorted(found)


def _death_signal(number: signal.Signals) -> list[str]:
    """Words in front of a command that make the kernel signal it when its parent dies.

    The parent is the *thread* that forked: in any thread but the main one the child would die
    with that thread, so there the guardian alone has to do. A program in front instead of a
    `preexec_fn`, because running Python between fork and exec can deadlock in a process with
    threads.
    """
    setpriv = shutil.which("setpriv")
    if setpriv is None or threading.current_thread() is not threading.main_thread():
        return []
    return [setpriv, "--pdeathsig", number.name.removeprefix("SIG"), "--"]


class Process:
    """A running child process, leader of its own session and process group.

    `log` receives stdout and stderr (appended); `env` replaces the environment; `user` switches
    to another user (root only); `death_signal` is what it gets if the test run dies. Use it as
    a context manager or call `stop`.
    """

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        user: str | None = None,
        death_signal: signal.Signals = signal.SIGKILL,
    ) -> None:
        words = [str(word) for word in argv]
        full = dict(os.environ if env is None else env)
        if MARKER in os.environ:
            full[MARKER] = os.environ[MARKER]
        program = shutil.which(words[0], path=full.get("PATH"))
        if program is None:
            raise FileNotFoundError(f"{words[0]}: no such program")
        self.argv = words
        self.log = log
        with log.open("ab") as output:
            self._log_start = output.tell()
            self._popen = subprocess.Popen(
                [*_death_signal(death_signal), program, *words[1:]],
                env=full,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=user,
                group=pwd.getpwnam(user).pw_gid if user else None,
                extra_groups=[] if user else None,
            )

    def __repr__(self) -> str:
        return f"<Process {self.pid} {' '.join(self.argv)[:100]}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process id, also that of its group and session."""
        return self._popen.pid

    @property
    def running(self) -> bool:
        """True until it has ended."""
        return self._popen.poll() is None

    @property
    def returncode(self) -> int | None:
        """Exit code, minus the signal's number after a signal, None while it runs."""
        return self._popen.poll()

    @property
    def output(self) -> str:
        """Everything it has written so far."""
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace")

    def tail(self, lines: int = 25) -> str:
        """The last lines it has written."""
        return "\n".join(self.output.splitlines()[-lines:])

    def send(self, number: int) -> None:
        """Signal the process itself, not its children; nothing happens if it has ended."""
        self._popen.send_signal(number)

    def wait(self, timeout: float = 10.0) -> int:
        """Wait for the end and return the exit code; `TimeoutError` if it goes on."""
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self!r} goes on after {timeout:g} s:\n{self.tail()}") from None

    def wait_for(
        self, condition: Callable[[], T], timeout: float = 10.0, what: str = "the condition"
    ) -> T:
        """Like the function `wait_for`, but fails at once, with the log, if the process ends."""

        def asked() -> T:
            ended = not self.running
            answer = condition()
            if ended and not answer:
                raise RuntimeError(
                    f"{self!r} ended with {self.returncode} before {what}:\n{self.tail()}"
                )
            return answer

        try:
            return wait_for(asked, timeout, what)
        except TimeoutError as error:
            raise TimeoutError(f"{error}; {self!r} wrote last:\n{self.tail()}") from None

    def wait_for_output(self, text: str, timeout: float = 10.0) -> None:
        """Wait until the log contains `text`."""
        self.wait_for(lambda: text in self.output, timeout, repr(text))

    def kill9(self) -> None:
        """KILL the process itself and reap it. Its children are left as they are."""
        self._popen.kill()
        self._popen.wait()

    def kill_group(self) -> None:
        """KILL the process and all that is still in its group, and reap it."""
        with contextlib.suppress(ProcessLookupError):  # nobody is left, which is the aim
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait()

    def stop(self, timeout: float = 10.0, number: int = signal.SIGTERM) -> int:
        """Ask it to end, wait, then KILL what is left of its group; returns the exit code."""
        self.send(number)
        with contextlib.suppress(subprocess.TimeoutExpired):  # then killed with its group
            self._popen.wait(timeout)
        self.kill_group()
        return self._popen.wait()


def output_of(*words: str, env: Mapping[str, str] | None = None) -> str:
    """Run a program to its end and return what it wrote; `RuntimeError` with its words if it fails.

    `env` is added to the environment.
    """
    done = subprocess.run(
        words,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stdout}{done.stderr}")
    return done.stdout
