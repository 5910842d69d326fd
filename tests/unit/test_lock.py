"""The lock of an embedded system."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from wlm_tasks.control.lock import UpLock

_HOLD = """
import sys
from pathlib import Path
from wlm_tasks.control.lock import UpLock
lock = UpLock(Path(sys.argv[1]))
print(lock.take(), flush=True)
sys.stdin.read()
"""


def test_nobody_holds_what_was_never_taken(tmp_path: Path) -> None:
    assert UpLock(tmp_path / "not" / "there").holder() is None


def test_one_at_a_time(tmp_path: Path) -> None:
    first, second = UpLock(tmp_path), UpLock(tmp_path)
    assert first.take()
    assert not second.take()
    assert second.holder() == str(os.getpid())
    first.release()
    assert second.holder() is None
    assert second.take()
    second.release()


def test_to_look_takes_nothing(tmp_path: Path) -> None:
    first, second = UpLock(tmp_path), UpLock(tmp_path)
    assert first.take()
    first.release()
    assert second.holder() is None
    assert first.take()
    first.release()


def test_it_is_gone_with_its_process(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        lock = UpLock(tmp_path)
        assert lock.holder() == str(other.pid)
        assert not lock.take()
        other.kill()
        other.wait()
        assert lock.take()
        lock.release()
