"""Notices in files: none lost, none twice, garbage set aside."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wlm_tasks.errors import NotifyUnavailableError
from wlm_tasks.model.notices import Notice, NoticeKind
from wlm_tasks.notify.spool import Spool


def notice(key: str = "down:1", at: float = 1.0, **detail: Any) -> Notice:
    return Notice(key=key, kind=NoticeKind.WORKER_DOWN, subject="w@n", at=at, detail=detail)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "state" / "spool"


@pytest.fixture
def spool(directory: Path) -> Spool:
    return Spool(directory)


def test_an_empty_spool_need_not_be_there(spool: Spool, directory: Path) -> None:
    assert spool.look().notices == []
    with spool.take() as taken:
        assert taken == []
    assert not directory.exists()


def test_what_is_put_is_taken_once_and_the_oldest_first(spool: Spool) -> None:
    later, first = notice("down:2", 2.0, host="n", steps=[{"name": "ü"}]), notice("down:1", 1.0)
    spool.put(later)
    spool.put(first)
    assert spool.look().notices == [first, later]
    with spool.take() as taken:
        assert taken == [first, later]
    assert spool.look().notices == []


def test_the_same_key_is_one_notice(spool: Spool) -> None:
    spool.put(notice(at=1.0))
    spool.put(notice(at=2.0))
    assert spool.look().notices == [notice(at=2.0)]


def test_what_could_not_be_handed_on_stays(spool: Spool) -> None:
    spool.put(notice())
    with pytest.raises(RuntimeError, match="no database"), spool.take():
        raise RuntimeError("no database")
    assert spool.look().notices == [notice()]


def test_only_its_owner_can_read_it(spool: Spool, directory: Path) -> None:
    directory.mkdir(parents=True)
    directory.chmod(0o755)
    spool.put(notice())
    (file,) = directory.glob("*.json")
    assert (directory.stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o700, 0o600)


def test_one_process_at_a_time_takes(spool: Spool, directory: Path) -> None:
    spool.put(notice())
    with spool.take() as taken, Spool(directory).take() as others:
        assert (len(taken), others) == (1, [])


def test_what_is_put_while_another_takes_is_not_lost(spool: Spool) -> None:
    spool.put(notice(at=1.0))
    with spool.take():
        spool.put(notice(at=2.0))
        spool.put(notice("down:2"))
    assert spool.look().notices == [notice("down:2"), notice(at=2.0)]


def test_two_at_once_lose_nothing_and_take_nothing_twice(directory: Path) -> None:
    keys = [f"down:{i}" for i in range(60)]
    got: list[str] = []

    def put(mine: list[str]) -> None:
        for key in mine:
            Spool(directory).put(notice(key))

    def take() -> None:
        while len(got) < len(keys):
            with Spool(directory).take() as taken:
                got.extend(one.key for one in taken)

    threads = [threading.Thread(target=put, args=(keys[i::2],)) for i in range(2)]
    threads += [threading.Thread(target=take) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(got) == sorted(keys)


GARBAGE = [
    b"",
    b"\x00\xff",
    b"{",
    b"[]",
    b"null",
    b'"x"',
    b"{}",
    b"[" * 100_000,
    b'{"key": 1, "kind": "TEST", "subject": "", "at": 1, "detail": {}, "ends": null}',
    b'{"key": "a", "kind": "NONE", "subject": "", "at": 1, "detail": {}, "ends": null}',
    b'{"key": "a", "kind": "TEST", "subject": "", "at": NaN, "detail": {}, "ends": null}',
    b'{"key": "a", "kind": "TEST", "subject": "", "at": "x", "detail": {}, "ends": null}',
    b'{"key": "a", "kind": "TEST", "subject": "", "at": 1, "detail": 5, "ends": null}',
    b" " * (1024 * 1024 + 1),
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda data: repr(data[:30]))
def test_garbage_is_set_aside_and_counted(spool: Spool, directory: Path, garbage: bytes) -> None:
    spool.put(notice())
    (directory / "garbage.json").write_bytes(garbage)
    (directory / "sub.json").mkdir()
    for _ in range(2):
        found = spool.look()
        assert (found.notices, found.set_aside) == ([notice()], 1)
    assert (directory / "garbage.bad").read_bytes() == garbage


def test_a_draft_that_a_crash_left_is_no_notice(spool: Spool, directory: Path) -> None:
    spool.put(notice())
    (directory / "half.draft").write_text('{"key"')
    found = spool.look()
    assert (len(found.notices), found.set_aside) == (1, 0)


@pytest.mark.parametrize("place", ["/proc/none", "/dev/null/spool"])
def test_a_directory_that_cannot_be_is_told(place: str) -> None:
    with pytest.raises(NotifyUnavailableError, match=f"spool {place}: "):
        Spool(Path(place)).put(notice())


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None
)
@given(st.text(max_size=200))
def test_any_key_can_be_kept(tmp_path: Path, key: str) -> None:
    directory = tmp_path / os.urandom(4).hex()
    spool = Spool(directory)
    spool.put(notice(key))
    assert spool.look().notices == [notice(key)]
    assert {file.parent for file in directory.rglob("*.json")} == {directory}
