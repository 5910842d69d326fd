"""A removal and the set-up of a retry at once, each held up before any line of its script."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from unit.compute.sites import LocalSite

from services.processes import wait_for
from wlm_tasks.compute import remote
from wlm_tasks.compute.base import ComputeBackend
from wlm_tasks.errors import StepError


class Held:
    """A call whose script stops before a line until it is told to go on."""

    def __init__(self, site: LocalSite, script: str, line: int) -> None:
        self._at, self._go = (site.scratch.parent / f"{word}-{line}" for word in ("at", "go"))
        at, go = shlex.quote(str(self._at)), shlex.quote(str(self._go))
        hold = f": > {at}; until [ -e {go} ]; do sleep 0.01; done"
        lines = script.splitlines()
        self.script = "\n".join([*lines[:line], hold, *lines[line:]])

    def reached(self, call: Future[None]) -> bool:
        """Wait for the line; False if the call ended without it."""
        wait_for(lambda: self._at.exists() or call.done(), what="the line or the end")
        return self._at.exists()

    def go_on(self) -> None:
        self._go.touch()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """One thread for the removal, one for the retry."""
    with ThreadPoolExecutor(2) as made:
        yield made


def _remove(backend: ComputeBackend, workdir: Path) -> None:
    backend.discard(str(workdir), 1)


def _set_up_again(backend: ComputeBackend, workdir: Path) -> None:
    backend.prepare(str(workdir), mark=2)
    (workdir / "new").touch()


def _waits(call: Future[None], lock: Path) -> bool:
    """Whether a call has ended or waits for the lock."""
    if call.done():
        return True
    locks = Path("/proc/locks").read_text().splitlines()
    inode = lock.stat().st_ino if lock.exists() else None
    return any("->" in line and f":{inode} " in line for line in locks)


@pytest.mark.parametrize(
    ("name", "first", "second", "gone"),
    [
        pytest.param("_DISCARD", _remove, _set_up_again, False, id="removal, another kept it"),
        pytest.param("_DISCARD", _remove, _set_up_again, True, id="removal, another removed it"),
        pytest.param("_PREPARE", _set_up_again, _remove, False, id="set-up"),
    ],
)
def test_what_a_retry_has_made_is_never_taken(
    *,
    hosted: LocalSite,
    pool: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    first: Callable[[ComputeBackend, Path], None],
    second: Callable[[ComputeBackend, Path], None],
    gone: bool,
) -> None:
    """The removal was begun before the retry; another one has ended in between."""
    one, two = hosted.another(), hosted.another()
    lock = hosted.scratch / f".wlm-lock-{os.getuid()}"
    script, reached = getattr(remote, name), 0
    for line in range(1, len(script.splitlines())):
        workdir, held = hosted.scratch / f"work-{line}", Held(hosted, script, line)
        monkeypatch.setattr(remote, name, script)
        two.prepare(str(workdir), mark=1)
        monkeypatch.setattr(remote, name, held.script)
        calls = [pool.submit(first, one, workdir)]
        if not held.reached(calls[0]):  # a line for other cases
            calls[0].result()
            continue
        reached += 1
        monkeypatch.setattr(remote, name, script)
        if gone:
            shutil.rmtree(workdir, ignore_errors=True)
        calls.append(pool.submit(second, two, workdir))
        wait_for(partial(_waits, calls[1], lock), what="the other, or that it waits")
        held.go_on()
        removal, retry = calls if first is _remove else reversed(calls)
        assert removal.exception() is None or isinstance(removal.exception(), StepError)
        retry.result()
        assert (workdir / "new").exists(), script.splitlines()[line]
        assert (workdir / ".wlm" / "setup").read_text() == "2\n"
        assert workdir.stat().st_mode & 0o777 == 0o700
    assert reached > 10
