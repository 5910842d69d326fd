"""A cancel takes many short calls: one signal, one grace, KILL in time."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from unit.compute.sites import LocalSite, here_only

from services.processes import wait_for
from wlm_tasks.compute import processes, stopping
from wlm_tasks.compute.attempt import Attempt
from wlm_tasks.compute.base import JobRef, JobSpec, JobState
from wlm_tasks.compute.stopping import Asked, Stopper

#: counts the signals it gets
COUNTING = "trap 'echo TERM' TERM\necho ready\nwhile :; do sleep 0.02; done"


@pytest.fixture
def counting(hosted: LocalSite) -> JobSpec:
    """A job that says so for each TERM and goes on, with an hour of grace."""
    spec = hosted.spec(COUNTING, stop_grace_s=3600.0)
    hosted.backend.submit(spec)
    wait_for(lambda: "ready" in hosted.output(spec.ref), what="the start")
    return spec


def let_pass(ref: JobRef, seconds: float) -> None:
    """Let that much of the grace be over."""
    asked = Path(ref.attempt_dir, "asked")
    since, *rest = [line for line in asked.read_text().splitlines() if line]
    asked.write_text("\n".join([f"since {float(since.split()[1]) - seconds}", *rest, ""]))


def timed(work: Callable[[], object]) -> tuple[object, float]:
    before = time.monotonic()
    return work(), time.monotonic() - before


def test_a_long_grace_holds_nobody(hosted: LocalSite, counting: JobSpec) -> None:
    confirmed, took = timed(lambda: hosted.backend.cancel(counting.ref))
    assert not confirmed
    assert took < 3
    wait_for(lambda: "TERM" in hosted.output(counting.ref), what="the signal")
    for _ in range(3):
        confirmed, took = timed(lambda: hosted.another().cancel(counting.ref))
        assert not confirmed
        assert took < 0.5
    assert hosted.output(counting.ref) == "ready\nTERM\n"
    let_pass(counting.ref, 3590)
    assert not hosted.backend.cancel(counting.ref)
    let_pass(counting.ref, 10)
    confirmed, took = timed(lambda: hosted.another().cancel(counting.ref))
    assert confirmed
    assert took < 2
    assert hosted.output(counting.ref) == "ready\nTERM\n"
    assert hosted.status(counting.ref).state is JobState.CANCELLED
    assert not hosted.living(counting.ref)


def test_a_call_near_the_end_of_the_grace_stays_for_it(
    hosted: LocalSite, counting: JobSpec
) -> None:
    assert not hosted.backend.cancel(counting.ref)
    let_pass(counting.ref, 3598)
    confirmed, took = timed(lambda: hosted.backend.cancel(counting.ref))
    assert confirmed
    assert took < 3
    assert hosted.output(counting.ref) == "ready\nTERM\n"


def test_a_call_stays_no_longer_than_it_may(hosted: LocalSite) -> None:
    spec = hosted.spec(COUNTING, stop_grace_s=2.0)
    hosted.backend.submit(spec)
    wait_for(lambda: "ready" in hosted.output(spec.ref), what="the start")
    confirmed, took = timed(lambda: hosted.backend.cancel(spec.ref, wait_s=0.1))
    assert not confirmed
    assert took < 1
    let_pass(spec.ref, 2)
    wait_for(lambda: hosted.backend.cancel(spec.ref, wait_s=0.1), what="the confirmation")
    assert hosted.status(spec.ref).state is JobState.CANCELLED


def test_a_job_that_ends_at_once_is_confirmed_at_once(hosted: LocalSite) -> None:
    spec = hosted.spec("exec sleep 30", stop_grace_s=3600.0)
    hosted.backend.submit(spec)
    wait_for(lambda: hosted.runs(spec.ref), what="the start")
    confirmed, took = timed(lambda: hosted.backend.cancel(spec.ref))
    assert confirmed
    assert took < 1


def test_the_signal_is_sent_though_the_mark_is_an_hour_old(
    hosted: LocalSite, counting: JobSpec
) -> None:
    """Whoever made it was killed then, or could not reach the job."""
    attempt = Attempt(counting.ref)
    with attempt.locked():
        attempt.mark_cancelled()
    mark = attempt.file("cancelled")
    os.utime(mark, (time.time() - 7200,) * 2)
    assert not hosted.backend.cancel(counting.ref)
    assert attempt.cancelled_for_s() > 7000
    wait_for(lambda: "TERM" in hosted.output(counting.ref), what="the signal")
    assert hosted.living(counting.ref)


def test_a_process_that_comes_later_is_told_too(hosted: LocalSite, counting: JobSpec) -> None:
    assert not hosted.backend.cancel(counting.ref)
    told = {pid for pid, _start in read(counting.ref).told}
    environ = {"WLM_JOB_TOKEN": counting.ref.token}
    child = os.posix_spawn("/bin/sleep", ["/bin/sleep", "30"], environ)
    assert not hosted.backend.cancel(counting.ref)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM
    assert {pid for pid, _start in read(counting.ref).told} == told | {child}


def read(ref: JobRef) -> Asked:
    asked = Asked(Attempt(ref))
    asked.read()
    return asked


def test_without_room_for_notes_the_time_of_the_mark_counts(
    hosted: LocalSite, counting: JobSpec
) -> None:
    Path(counting.ref.attempt_dir, "asked").mkdir()
    assert not hosted.backend.cancel(counting.ref)
    os.utime(f"{counting.ref.attempt_dir}/cancelled", (time.time() - 3601,) * 2)
    hosted.backend.cancel(counting.ref)
    assert hosted.backend.cancel(counting.ref)
    assert not hosted.living(counting.ref)


def test_unfinished_notes(hosted: LocalSite) -> None:
    ref = hosted.ref()
    Path(ref.attempt_dir).mkdir(parents=True)
    assert read(ref).grace_left(7.0) == 7.0
    Path(ref.attempt_dir, "asked").write_text(
        "since\nsince x\nsince 9e9\ntold 1\nto\n\ntold 1 2\ntol"
    )
    assert (read(ref).since, read(ref).told) == (None, {(1, 2)})
    first = read(ref)
    first.begin()
    first.tell([(3, 4)])
    assert read(ref).told == {(1, 2), (3, 4)}
    assert 6 < read(ref).grace_left(7.0) <= 7
    assert read(ref).since == first.since


@here_only
def test_looks_become_rare(
    hosted: LocalSite, counting: JobSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []
    scan = processes.scan

    def counted() -> processes.ProcessTable:
        looks.append(time.monotonic())
        return scan()

    monkeypatch.setattr(processes, "scan", counted)
    monkeypatch.setattr(stopping, "_MOMENT_S", 2.0)
    assert not Stopper(Attempt(counting.ref), Attempt(counting.ref).claim(), 2.0).run()
    assert 4 <= len(looks) <= 9
