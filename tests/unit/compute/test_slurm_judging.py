"""How a job stands by its files and by Slurm's lists. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from wlm_tasks.compute.attempt import ExitRecord
from wlm_tasks.compute.base import JobRef, JobState, SiteLoad
from wlm_tasks.compute.processes import Place
from wlm_tasks.compute.remote import Markers
from wlm_tasks.compute.slurm.judging import Traces, count, is_forgotten, judge, live
from wlm_tasks.compute.slurm.listing import Row, choose_listed

PLACE = Place(host="login", boot="b", machine="m", namespace="1")
REF = JobRef(token="wlm-a", workdir="/s/w", native_id="7")
CLAIM = {
    "pid": 5, "start": 6, "boot": "c", "host": "wn1", "machine": "", "namespace": "2",
    "epoch": 1000.0, "limit": 60.0, "job": "7",
}  # fmt: skip
NOBODY = CLAIM | {"pid": 0}
GOOD = ExitRecord(code=0, start=1000.0, end=1001.0, reason="exit")
KILLED = ExitRecord(code=137, start=1000.0, end=1001.0, reason="signal")
#: a node's clock may be wrong by as much as it likes
SKEWED = ExitRecord(code=0, start=400.0, end=401.0, reason="exit")


def row(state: str, reason: str = "None") -> Row:
    return Row("7", state, 990.0, 1000.0, 1001.0, reason, "wlm-a")


def traces(
    *,
    started: dict[str, object] | None = None,
    over: ExitRecord | None = None,
    cancelled: bool = False,
    directory: bool = True,
    trouble: str = "",
    missing_s: int | None = None,
    accounts: Sequence[Row] | None = (),
    used_up_memory: bool = False,
) -> Traces:
    markers = Markers(
        directory=directory, started=started, exit=over, cancelled=cancelled, trouble=trouble
    )
    job = str(started["job"]) if started and started["pid"] else None
    return Traces(
        markers=markers,
        place=PLACE,
        job=job,
        used_up_memory=used_up_memory,
        missing_s=missing_s,
        settle_s=15,
        accounts=accounts,
    )


def state(listed: Row | None, found: Traces) -> JobState:
    return judge(REF, listed, found).state


@pytest.mark.parametrize("listed", [None, row("COMPLETED"), row("RUNNING"), row("COMPLETING")])
def test_the_exit_record_is_the_first_evidence(listed: Row | None) -> None:
    for record in (GOOD, SKEWED):
        status = judge(REF, listed, traces(started=CLAIM, over=record, missing_s=None))
        assert status.state is JobState.SUCCEEDED
        assert (status.started_at, status.ended_at) == (record.start, record.end)


@pytest.mark.parametrize(
    ("native", "words"),
    [("OUT_OF_MEMORY", "out of memory"), ("TIMEOUT", "walltime"), ("NODE_FAIL", "node failure")],
)
def test_why_a_payload_was_killed_slurm_tells(native: str, words: str) -> None:
    found = traces(started=CLAIM, over=KILLED)
    status = judge(REF, row(native), found)
    assert status.state is JobState.FAILED
    assert status.exit_code == 137
    assert status.reason.startswith(words)
    by_accounting = traces(started=CLAIM, over=KILLED, accounts=[row(native)])
    assert judge(REF, None, by_accounting).reason.startswith(words)


@pytest.mark.parametrize("listed", [row("FAILED", "JobLaunchFailure"), row("CANCELLED"), None])
@pytest.mark.parametrize("over", [KILLED, None])
def test_used_up_memory_is_told_whatever_slurm_calls_it(
    listed: Row | None, over: ExitRecord | None
) -> None:
    lost = None if listed else 1000
    found = traces(started=CLAIM, over=over, used_up_memory=True, missing_s=lost)
    status = judge(REF, listed, found)
    assert (status.state, status.reason) == (
        JobState.FAILED,
        "out of memory: it used more memory than it had asked for",
    )


def test_a_payload_that_a_part_of_had_used_up_memory() -> None:
    bad = ExitRecord(code=3, start=1.0, end=2.0, reason="exit")
    status = judge(REF, row("FAILED"), traces(started=CLAIM, over=bad, used_up_memory=True))
    assert status.exit_code == 3
    assert status.reason.endswith("; out of memory: it used more memory than it had asked for")
    good = traces(started=CLAIM, over=GOOD, used_up_memory=True)
    assert state(row("COMPLETED"), good) is JobState.SUCCEEDED
    ours = traces(started=CLAIM, over=KILLED, cancelled=True, used_up_memory=True)
    assert state(row("CANCELLED"), ours) is JobState.CANCELLED


def test_a_killed_payload_waits_for_slurms_word() -> None:
    found = traces(started=CLAIM, over=KILLED)
    assert state(row("COMPLETING"), found) is JobState.RUNNING
    # it has none any more
    assert judge(REF, None, found).reason == "signal: it was ended by SIGKILL (exit code 137)"


def test_ended_by_hand() -> None:
    found = traces(started=CLAIM, over=ExitRecord(code=143, start=1.0, end=2.0, reason="signal"))
    status = judge(REF, row("CANCELLED"), found)
    assert status.state is JobState.CANCELLED
    assert "on the site" in status.reason


def test_our_own_cancel_is_cancelled_whatever_slurm_says() -> None:
    found = traces(started=CLAIM, over=KILLED, cancelled=True)
    for listed in (None, row("COMPLETING"), row("CANCELLED"), row("FAILED")):
        assert judge(REF, listed, found).reason == "cancelled"


@pytest.mark.parametrize("native", ["FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL"])
def test_without_a_record_slurms_bad_news_count(native: str) -> None:
    for started in (None, CLAIM):
        status = judge(REF, row(native), traces(started=started))
        assert status.state is JobState.FAILED
        assert (status.started_at, status.ended_at) == (1000.0, 1001.0)


def test_completed_alone_is_never_success() -> None:
    for missing in (0, 10, 59, 60):
        assert state(row("COMPLETED"), traces(started=CLAIM, missing_s=missing)) is JobState.UNKNOWN
    late = traces(started=CLAIM, missing_s=61)
    assert state(row("COMPLETED"), late) is JobState.LOST
    by_accounting = traces(started=CLAIM, missing_s=0, accounts=[row("COMPLETED")])
    assert state(None, by_accounting) is JobState.UNKNOWN


def test_gone_from_the_list_is_unknown_first() -> None:
    assert state(None, traces(started=CLAIM, missing_s=0)) is JobState.UNKNOWN
    assert state(None, traces(started=CLAIM, missing_s=60)) is JobState.UNKNOWN
    assert state(None, traces(started=CLAIM, missing_s=61)) is JobState.LOST


def test_nothing_is_lost_while_accounting_is_silent() -> None:
    found = traces(started=CLAIM, missing_s=10_000, accounts=None)
    assert state(None, found) is JobState.UNKNOWN
    assert not is_forgotten(REF, None, traces(missing_s=10_000, accounts=None))


def test_what_only_accounting_calls_running_is_unknown() -> None:
    found = traces(started=CLAIM, missing_s=10_000, accounts=[row("RUNNING")])
    assert state(None, found) is JobState.UNKNOWN


def test_forgotten_before_it_began() -> None:
    assert not is_forgotten(REF, None, traces(missing_s=15))
    assert is_forgotten(REF, None, traces(missing_s=16))
    assert not is_forgotten(REF, None, traces(missing_s=16, started=CLAIM))
    assert not is_forgotten(REF, row("COMPLETED"), traces(missing_s=16))
    assert not is_forgotten(REF, None, traces(missing_s=16, trouble="disk"))
    assert not is_forgotten(REF, None, traces(missing_s=16, accounts=[row("COMPLETED")]))
    assert state(None, traces(started=NOBODY)) is JobState.LOST
    assert state(None, traces(started=NOBODY, cancelled=True)) is JobState.CANCELLED


def test_never_submitted_is_unknown() -> None:
    assert state(None, traces(directory=False)) is JobState.UNKNOWN


def test_what_cannot_be_read_is_unknown() -> None:
    found = traces(trouble="Input/output error", missing_s=10_000)
    assert judge(REF, None, found).reason == "Input/output error"
    assert state(row("FAILED"), found) is JobState.UNKNOWN


def test_live_jobs() -> None:
    assert live(row("RUNNING")) is not None
    assert live(row("COMPLETED")) is None
    waiting = live(row("PENDING", "Resources"))
    assert waiting is not None
    assert waiting.state is JobState.PENDING
    expected = "waits for free nodes (Resources); expected to start 1970-01-01 00:16 UTC"
    assert waiting.reason == expected
    odd = live(row("TELEPORTED"))
    assert odd is not None
    assert odd.state is JobState.UNKNOWN


def test_jobs_of_the_account_are_counted_whoever_handed_them_in() -> None:
    rows = [
        row("RUNNING"),
        replace(row("RUNNING"), name="theirs"),
        replace(row("PENDING"), name="theirs"),
        replace(row("COMPLETED"), name="over"),
    ]
    assert count(rows, {"wlm-a"}) == SiteLoad(queued=1, running=2, foreign=2)


def test_of_two_jobs_of_one_name_the_living_one_counts() -> None:
    left, runs = row("COMPLETED"), replace(row("RUNNING"), id="8")
    assert choose_listed([left, runs], "7") is runs
    assert choose_listed([runs, left], None) is runs
    assert choose_listed([left, replace(left, id="8")], "7") is left
    assert choose_listed([], "7") is None
