"""Ends what a test run leaves behind, also when the run itself is killed with -9.

Every process started by a test run inherits one environment variable with a value of its own.
A small companion process, in its own session, waits for the run's end by way of a pidfd, then
kills whatever still carries that value and removes the run's directory and its network. The
kernel's death signal (`services.processes`) is faster but reaches direct children only, and only
those of the thread that started them; this reaches grandchildren and detached jobs as well.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Final

MARKER: Final = "WLM_TEST_SESSION"  #: name of the inherited variable
_PATIENCE_S: Final = 0.5  #: for servers that end by themselves, cleaner than by KILL
_LIMIT_S: Final = 10.0  #: how long to go on killing


def marked_processes(value: str) -> dict[int, str]:
    """Pid and command line of every live process that carries this value, without ours."""
    wanted = f"{MARKER}={value}".encode()
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                found[int(entry.name)] = b" ".join(words).decode(errors="replace").strip()
        except OSError:  # ended meanwhile, or another user's
            continue
    return found


def kill_marked(value: str) -> list[str]:
    """Kill them all, those they start meanwhile too; returns the command lines met."""
    met: dict[int, str] = {}
    deadline = time.monotonic() + _LIMIT_S
    while (found := marked_processes(value)) and time.monotonic() < deadline:
        met |= found
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.02)
    return list(met.values())


def network_mark(value: str) -> str:
    """What the names of the bridge and the namespaces of a run begin with."""
    return f"wlm{value[:8]}"


def remove_network(mark: str) -> None:
    """Remove the bridge and the namespaces of a run, whatever there is of them."""
    places = Path("/run/netns").glob(f"{mark}-*")
    words = [["netns", "delete", place.name] for place in places]
    if Path("/sys/class/net", mark).exists():
        words.append(["link", "delete", mark])
    for one in words:
        subprocess.run(["ip", *one], check=False, stdin=subprocess.DEVNULL)


class Guardian:
    """The test run's side: marks the environment, owns the run's directory.

    `directory` is for data that must go away with the run. Other users may pass through it (a
    server that refuses to run as root needs that) but not list it.
    """

    def __init__(self) -> None:
        self.value = uuid.uuid4().hex
        self.directory = Path(tempfile.mkdtemp(prefix="wlm-tests-"))
        self.directory.chmod(0o711)
        clean = {name: text for name, text in os.environ.items() if name != MARKER}
        self._companion = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(os.getpid()), self.value, self.directory],
            env=clean,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.environ[MARKER] = self.value

    def sweep(self) -> list[str]:
        """End every process of this run that is left; returns their command lines."""
        return kill_marked(self.value)

    def close(self) -> None:
        """End what is left, the companion as well, and remove the directory."""
        self.sweep()
        self._companion.kill()
        self._companion.wait()
        remove_network(network_mark(self.value))
        shutil.rmtree(self.directory, ignore_errors=True)
        os.environ.pop(MARKER, None)


def _wait_for_end(pid: int) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    # The number may have gone to another process before pidfd_open: then it is not our parent.
    while os.getppid() == pid and not select.select([descriptor], [], [], 1.0)[0]:
        continue


def main(parent: str, value: str, directory: str) -> None:
    """The companion: wait for the end of `parent`, then clear up after it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _wait_for_end(int(parent))
    deadline = time.monotonic() + _PATIENCE_S
    while marked_processes(value) and time.monotonic() < deadline:
        time.sleep(0.02)
    kill_marked(value)
    remove_network(network_mark(value))
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
