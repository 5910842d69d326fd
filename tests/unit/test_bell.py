"""The doorbell between processes."""

from __future__ import annotations

import os
import select
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wlm_tasks.bell import WORD_LIMIT, Bell, ring


@pytest.fixture
def bell(tmp_path: Path) -> Iterator[Bell]:
    with Bell(tmp_path / "bells") as bell:
        yield bell


def dead_pid() -> int:
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


def test_words_arrive_in_order(bell: Bell, tmp_path: Path) -> None:
    assert ring(tmp_path / "bells", "one") == 1
    assert ring(tmp_path / "bells", "two é") == 1
    assert bell.wait(5) == ["one", "two é"]
    before = time.monotonic()
    assert bell.wait(0.05) == []
    assert time.monotonic() - before >= 0.05


def test_every_bell_hears(bell: Bell, tmp_path: Path) -> None:
    with Bell(tmp_path / "bells") as other:
        assert ring(tmp_path / "bells", "x") == 2
        assert bell.wait(5) == other.wait(5) == ["x"]


def test_the_wait_ends_with_the_ring(bell: Bell, tmp_path: Path) -> None:
    timer = threading.Timer(0.05, ring, (tmp_path / "bells", "now"))
    timer.start()
    before = time.monotonic()
    assert bell.wait(30) == ["now"]
    assert time.monotonic() - before < 5
    timer.join()


def test_the_wait_ends_in_time(bell: Bell) -> None:
    before = time.monotonic()
    assert bell.wait(0.05) == []
    assert 0.05 <= time.monotonic() - before < 5


def test_wake_from_another_thread(bell: Bell) -> None:
    timer = threading.Timer(0.02, bell.wake)
    timer.start()
    before = time.monotonic()
    assert bell.wait(30) == []
    assert time.monotonic() - before < 5
    timer.join()


def test_the_descriptor_can_be_waited_on(bell: Bell, tmp_path: Path) -> None:
    assert select.select([bell], [], [], 0)[0] == []
    ring(tmp_path / "bells", "x")
    assert select.select([bell], [], [], 5)[0] == [bell]


def test_a_full_bell_loses_words_and_keeps_nobody_waiting(bell: Bell, tmp_path: Path) -> None:
    rung = [ring(tmp_path / "bells", "x" * WORD_LIMIT) for _ in range(20)]
    assert rung == [1] * 16 + [0] * 4
    bell.wake()
    assert len(bell.wait(5)) == 16
    assert ring(tmp_path / "bells", "again") == 1
    assert bell.wait(5) == ["again"]


@pytest.mark.parametrize("word", ["a\nb", "x" * (WORD_LIMIT + 1), "é" * WORD_LIMIT])
def test_a_word_that_is_none(tmp_path: Path, word: str) -> None:
    with pytest.raises(ValueError, match="word: got"):
        ring(tmp_path, word)


def test_nobody_listens(tmp_path: Path) -> None:
    assert ring(tmp_path / "nowhere", "x") == 0
    (tmp_path / "file").touch()
    assert ring(tmp_path / "file", "x") == 0
    assert ring(tmp_path, "x") == 0


def test_the_bell_of_a_dead_process_is_removed(tmp_path: Path) -> None:
    stale = tmp_path / f"{dead_pid()}-00.bell"
    os.mkfifo(stale)
    opening = tmp_path / f"{os.getpid()}-00.bell"
    os.mkfifo(opening)
    foreign = tmp_path / "somebody.bell"
    os.mkfifo(foreign)
    assert ring(tmp_path, "x") == 0
    assert not stale.exists()
    assert opening.exists()
    assert foreign.exists()


def test_a_new_bell_removes_dead_ones(tmp_path: Path) -> None:
    stale = tmp_path / f"{dead_pid()}-00.bell"
    os.mkfifo(stale)
    with Bell(tmp_path):
        assert not stale.exists()
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_bell_that_is_heard_stays_though_its_pid_is_unknown(tmp_path: Path) -> None:
    """It is of another container, which counts its processes apart."""
    other = tmp_path / f"{dead_pid()}-00.bell"
    os.mkfifo(other)
    listener = os.open(other, os.O_RDWR | os.O_NONBLOCK)
    with Bell(tmp_path):
        assert ring(tmp_path, "x") == 2
    assert os.read(listener, 10) == b"x\n"
    os.close(listener)
    assert ring(tmp_path, "x") == 0
    assert not other.exists()


def test_a_bell_hangs_only_when_somebody_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[Path]] = []
    mkfifo = os.mkfifo

    def made(path: Path, mode: int) -> None:
        mkfifo(path, mode)
        seen.append(list(tmp_path.glob("*.bell")))

    monkeypatch.setattr(os, "mkfifo", made)
    with Bell(tmp_path) as bell:
        assert seen == [[]]
        assert [f.suffix for f in tmp_path.iterdir()] == [".bell"]
        bell.wake()
        assert bell.wait(5) == []


def test_a_file_named_like_a_bell_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / f"{os.getpid()}-00.bell").write_text("text")
    ring(tmp_path, "x")
    assert (tmp_path / f"{os.getpid()}-00.bell").read_text() == "text"


def test_closing(tmp_path: Path) -> None:
    bell = Bell(tmp_path / "bells")
    assert (tmp_path / "bells").stat().st_mode & 0o777 == 0o700
    bell.close()
    bell.close()
    bell.wake()
    assert list((tmp_path / "bells").iterdir()) == []
