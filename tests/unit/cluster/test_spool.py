"""The spool of events: its writer, a shell script, and its reader."""

from __future__ import annotations

import os
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wlm_tasks.cluster.gossip import EventKind
from wlm_tasks.cluster.spool import SpoolBatch, _read
from wlm_tasks.cluster.tags import Role, WorkerAttributes, parse

HANDLER = Path(__file__).parents[3] / "deploy" / "serf" / "spool-events"
TOLD = WorkerAttributes(role=Role.WORKER, name="a,b=c@h", incarnation="1", queues=("a", "b"))


def line(node: str = "n1", tags: dict[str, str] | None = None) -> str:
    """What an agent gives its handler for a member."""
    told = ",".join(f"{key}={value}" for key, value in (tags or {}).items())
    return f"{node}\t127.0.0.1\t\t{told}\n"


def handle(spool: Path | None, text: str, event: str = "member-failed") -> None:
    where = {} if spool is None else {"WLM_SERF_SPOOL": str(spool)}
    env = {"PATH": os.environ["PATH"], "SERF_EVENT": event, **where}
    done = subprocess.run(
        [HANDLER], input=text.encode(), env=env, capture_output=True, timeout=30, check=False
    )
    assert done.returncode == 0


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "events.spool"


def test_every_member_of_an_event_is_a_record(spool: Path) -> None:
    handle(spool, line("n1", TOLD.tags) + line("n2"))
    handle(spool, line("n3"), "member-leave")
    batch = SpoolBatch.take(spool)
    assert [(one.event, one.node) for one in batch.records] == [
        (EventKind.FAILED, "n1"),
        (EventKind.FAILED, "n2"),
        (EventKind.LEAVE, "n3"),
    ]
    assert parse(batch.records[0].tags) == TOLD
    assert batch.skipped == 0
    assert batch.records[0].time > 1.7e9
    assert stat.S_IMODE(spool.stat().st_mode) == 0o600


def test_records_come_again_until_they_are_done(spool: Path) -> None:
    handle(spool, line("n1"))
    SpoolBatch.take(spool)  # and dies
    assert spool.read_bytes() == b""
    handle(spool, line("n2"))
    batch = SpoolBatch.take(spool)
    assert [one.node for one in batch.records] == ["n1", "n2"]
    batch.done()
    assert SpoolBatch.take(spool).records == []


def test_no_spool_is_an_empty_one(spool: Path) -> None:
    batch = SpoolBatch.take(spool)
    batch.done()
    assert (batch.records, batch.skipped) == ([], 0)


def test_nothing_is_lost_while_many_write_and_one_reads(spool: Path) -> None:
    found: list[str] = []
    with ThreadPoolExecutor(4) as pool:
        writing = [pool.submit(handle, spool, line(f"n{n}")) for n in range(40)]
        while len(found) < 40:
            batch = SpoolBatch.take(spool)
            found += [one.node for one in batch.records]
            batch.done()
        for one in writing:
            one.result()
    assert sorted(found) == sorted(f"n{n}" for n in range(40))


def test_the_handler_does_not_fail_where_it_cannot_write(tmp_path: Path) -> None:
    handle(None, line())
    handle(tmp_path / "no" / "spool", line())


def test_a_spool_that_nobody_reads_does_not_fill_the_disk(spool: Path) -> None:
    with spool.open("wb") as file:
        file.truncate(16 * 1024 * 1024)
    handle(spool, line())
    assert spool.stat().st_size == 16 * 1024 * 1024


@pytest.mark.parametrize(
    "garbage",
    [
        b"garbage",
        b"\xff\xfe",
        b"1\tmember-failed\tn1\t\t",
        b"1\tmember-eaten\tn1\t127.0.0.1\t\t",
        b"soon\tmember-failed\tn1\t127.0.0.1\t\t",
        b"-1\tmember-failed\tn1\t127.0.0.1\t\t",
        b"9999999999999\tmember-failed\tn1\t127.0.0.1\t\t",
        b"1\tmember-failed\t\t127.0.0.1\t\t",
    ],
    ids=str,
)
def test_garbage_is_skipped_and_counted(spool: Path, garbage: bytes) -> None:
    spool.write_bytes(b"\n" + garbage + b"\n1\tmember-failed\tn1\t127.0.0.1\t\ta=b,,c,=d\n")
    batch = SpoolBatch.take(spool)
    assert [(one.node, one.tags) for one in batch.records] == [("n1", {"a": "b"})]
    assert batch.skipped == 1


@given(st.binary())
def test_no_line_is_too_strange(data: bytes) -> None:
    _read(data)
