"""LOST only when it is certain, and never an end without evidence."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from unit.compute.sites import LocalSite, here_only

from services.processes import wait_for
from wlm_tasks.compute import alive, attempt, evidence, processes
from wlm_tasks.compute.attempt import Attempt, Claim, ExitRecord, Where
from wlm_tasks.compute.base import JobRef, JobSpec, JobState
from wlm_tasks.compute.evidence import ended

MACHINE = "0123456789abcdef" * 2
OTHER_MACHINE = "f" * 32


@pytest.fixture
def running(hosted: LocalSite) -> JobSpec:
    """A job that runs until it is ended."""
    spec = hosted.spec("while :; do sleep 0.05; done", stop_grace_s=0.2)
    native_id = hosted.backend.submit(spec).native_id
    wait_for(lambda: hosted.runs(spec.ref), what="the start")
    return replace(spec, ref=replace(spec.ref, native_id=native_id))


def guard_of(spec: JobSpec) -> int:
    return int((spec.ref.native_id or "").split(":")[2])


def edit_claim(ref: JobRef, **changes: Any) -> None:
    started = Path(ref.attempt_dir, "started")
    started.write_text(json.dumps(json.loads(started.read_text()) | changes))


def kill_all(hosted: LocalSite, spec: JobSpec) -> None:
    os.kill(guard_of(spec), signal.SIGKILL)
    hosted.clean()
    wait_for(lambda: not hosted.living(spec.ref), what="the end")


def test_the_guard_is_dead_and_the_payload_lives(hosted: LocalSite, running: JobSpec) -> None:
    os.kill(guard_of(running), signal.SIGKILL)
    wait_for(lambda: processes.look_up(guard_of(running)) is None, what="the guard's end")
    for _ in range(20):
        status = hosted.status(running.ref)
        assert status.state is JobState.RUNNING
        assert status.reason == "its guard is gone, its processes live"
    hosted.clean()
    status = hosted.wait_end(running.ref)
    assert status.state is JobState.LOST
    assert status.started_at is not None
    assert status.reason == "its processes are gone and it left no exit record"


def test_the_payload_has_cleared_its_environment(hosted: LocalSite) -> None:
    spec = hosted.spec("exec env -i bash -c 'echo up; while :; do /bin/sleep 0.05; done'")
    native_id = hosted.backend.submit(spec).native_id
    wait_for(lambda: hosted.output(spec.ref) == "up\n", what="the start")
    os.kill(int(native_id.split(":")[2]), signal.SIGKILL)
    members = processes.scan().of_job(spec.ref.token, None).values()
    processes.send([p for p in members if p.token], signal.SIGKILL)
    wait_for(lambda: not hosted.living(spec.ref), what="the end of all with a token")
    assert hosted.status(spec.ref).state is JobState.RUNNING
    assert hosted.backend.cancel(spec.ref)
    assert hosted.status(spec.ref).state is JobState.CANCELLED


def test_a_pid_given_away_again_is_not_the_guard(hosted: LocalSite, running: JobSpec) -> None:
    kill_all(hosted, running)
    edit_claim(running.ref, pid=os.getpid(), start=1)
    assert hosted.status(running.ref).state is JobState.LOST


@here_only
def test_a_record_that_comes_late_counts(
    hosted: LocalSite, running: JobSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    kill_all(hosted, running)
    scan = processes.scan

    def scan_late() -> processes.ProcessTable:
        record = {"code": 0, "start": 1.0, "end": 2.0, "reason": "exit"}
        Path(running.ref.attempt_dir, "exit.json").write_text(json.dumps(record))
        return scan()

    monkeypatch.setattr(processes, "scan", scan_late)
    assert hosted.status(running.ref).state is JobState.SUCCEEDED


def known_by_files_only(hosted: LocalSite, spec: JobSpec) -> None:
    status = hosted.status(spec.ref)
    assert status.state is JobState.RUNNING
    assert "known from here by its files only" in status.reason
    edit_claim(spec.ref, epoch=time.time() - 600)
    status = hosted.status(spec.ref)
    assert status.state is JobState.UNKNOWN
    assert "time limit" in status.reason
    assert not hosted.backend.cancel(spec.ref)


@pytest.mark.parametrize(
    "changes",
    [
        {"boot": "b", "host": "h", "machine": "m"},
        {"boot": "b", "host": "h", "machine": OTHER_MACHINE},
        {"boot": "b", "machine": OTHER_MACHINE},
    ],
)
def test_a_claim_from_elsewhere(
    hosted: LocalSite, running: JobSpec, changes: dict[str, str]
) -> None:
    kill_all(hosted, running)
    edit_claim(running.ref, **changes)
    known_by_files_only(hosted, running)


def test_what_an_operator_knows_of_a_host_that_is_gone_counts(
    hosted: LocalSite, running: JobSpec
) -> None:
    """As docs/operating.md says."""
    kill_all(hosted, running)
    edit_claim(running.ref, boot="b", host="h", machine="m")
    record = '{"code": null, "reason": "its host is gone"}'
    Path(running.ref.attempt_dir, "exit.json").write_text(record)
    status = hosted.status(running.ref)
    assert (status.state, status.reason) == (JobState.FAILED, "its host is gone")
    assert hosted.backend.cancel(running.ref)


class TestOtherContainer:
    """A claim of the same kernel and another pid namespace."""

    def test_nothing_of_it_is_left(self, hosted: LocalSite, running: JobSpec) -> None:
        kill_all(hosted, running)
        edit_claim(running.ref, namespace="1")
        status = hosted.status(running.ref)
        assert status.state is JobState.LOST
        assert status.started_at is not None
        assert hosted.backend.cancel(running.ref)
        assert hosted.status(running.ref).state is JobState.CANCELLED

    def test_it_lives(self, hosted: LocalSite, running: JobSpec) -> None:
        edit_claim(running.ref, namespace="1", epoch=time.time() - 600)
        for guard in (True, False):
            status = hosted.status(running.ref)
            assert status.state is JobState.RUNNING
            assert "another container" in status.reason
            assert not hosted.backend.cancel(running.ref)
            if guard:
                os.kill(guard_of(running), signal.SIGKILL)
                wait_for(lambda: processes.look_up(guard_of(running)) is None)
        hosted.clean()
        hosted.wait_end(running.ref)
        assert hosted.backend.cancel(running.ref)
        assert hosted.status(running.ref).state is JobState.CANCELLED

    @here_only
    def test_its_record_is_there_before_its_lock_is_free(
        self, hosted: LocalSite, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spec = hosted.spec("true")
        hosted.backend.submit(spec)
        hosted.wait_end(spec.ref)
        wait_for(lambda: not hosted.living(spec.ref), what="the guard's end")
        edit_claim(spec.ref, namespace="1")
        exits = iter([None])
        read = Attempt.exit
        monkeypatch.setattr(Attempt, "exit", lambda self: next(exits, read(self)))
        assert hosted.status(spec.ref).state is JobState.SUCCEEDED

    def test_a_payload_that_closed_what_it_inherited_holds_nothing(self, hosted: LocalSite) -> None:
        """The limit of this evidence: the guard and what did not close it must be dead, too."""
        spec = hosted.spec(
            'for fd in /proc/self/fd/*; do fd=${fd##*/}; [ $fd -lt 3 ] || eval "exec $fd>&-"; done'
            "\necho up; while :; do sleep 0.05; done"
        )
        native_id = hosted.backend.submit(spec).native_id
        wait_for(lambda: hosted.output(spec.ref) == "up\n", what="the start")
        lock = f"{spec.ref.attempt_dir}/alive"
        assert alive.is_locked(lock)
        members = processes.scan().of_job(spec.ref.token, None).values()
        bare = [p for p in members if processes.command_line(p.pid)[-1].endswith("payload.sh")]
        os.kill(int(native_id.split(":")[2]), signal.SIGKILL)
        timeouts = [p for p in bare if processes.command_line(p.pid)[0].endswith("timeout")]
        processes.send(timeouts, signal.SIGKILL)
        wait_for(lambda: not alive.is_locked(lock), what="the lock to be free")
        assert hosted.status(spec.ref).state is JobState.RUNNING  # where its pids can be seen

    @pytest.mark.parametrize("noted", ["", "1:1"])
    def test_a_claim_that_notes_another_lock_or_none(
        self, hosted: LocalSite, running: JobSpec, noted: str
    ) -> None:
        kill_all(hosted, running)
        edit_claim(running.ref, namespace="1", alive=noted)
        known_by_files_only(hosted, running)

    def test_the_lock_is_gone(self, hosted: LocalSite, running: JobSpec) -> None:
        kill_all(hosted, running)
        Path(running.ref.attempt_dir, "alive").unlink()
        edit_claim(running.ref, namespace="1")
        known_by_files_only(hosted, running)

    @here_only
    def test_a_file_system_without_locks(
        self, hosted: LocalSite, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(_fd: int, how: int) -> None:
            if how & fcntl.LOCK_SH:
                raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

        spec = hosted.spec("while :; do sleep 0.05; done")
        with monkeypatch.context() as patch:
            patch.setattr(fcntl, "flock", refuse)
            native_id = hosted.backend.submit(spec).native_id
        spec = replace(spec, ref=replace(spec.ref, native_id=native_id))
        assert hosted.status(spec.ref).state is JobState.RUNNING
        kill_all(hosted, spec)
        edit_claim(spec.ref, namespace="1")
        known_by_files_only(hosted, spec)


def test_the_host_was_restarted(hosted: LocalSite, running: JobSpec) -> None:
    kill_all(hosted, running)
    edit_claim(running.ref, boot="another")
    status = hosted.status(running.ref)
    assert status.state is JobState.LOST
    assert "restarted" in status.reason
    assert hosted.backend.cancel(running.ref)


class TestRestartedUnderAnotherName:
    @pytest.fixture
    def moved(
        self, hosted: LocalSite, running: JobSpec, monkeypatch: pytest.MonkeyPatch
    ) -> JobSpec:
        place = replace(processes.here(), machine=MACHINE)
        monkeypatch.setattr(attempt, "here", lambda: place)
        edit_claim(running.ref, boot="b", host="h", machine=MACHINE)
        assert hosted.runs(running.ref)
        return running

    @here_only
    def test_the_machine_is_the_same(self, hosted: LocalSite, moved: JobSpec) -> None:
        kill_all(hosted, moved)
        status = hosted.status(moved.ref)
        assert status.state is JobState.LOST
        assert status.reason.startswith("h was restarted")
        assert hosted.backend.cancel(moved.ref)

    @here_only
    def test_another_host_has_the_same_machine_id(self, hosted: LocalSite, moved: JobSpec) -> None:
        known_by_files_only(hosted, moved)

    @here_only
    def test_a_word_is_no_machine_id(
        self, hosted: LocalSite, moved: JobSpec, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kill_all(hosted, moved)
        place = replace(processes.here(), machine="uninitialized")
        monkeypatch.setattr(attempt, "here", lambda: place)
        edit_claim(moved.ref, machine="uninitialized")
        known_by_files_only(hosted, moved)

    def test_a_native_id_does_not_tell_the_machine(self) -> None:
        claim = Claim.of_native_id("h:12345678:1:1")
        assert claim is not None
        assert claim.where is Where.ELSEWHERE


def test_a_host_that_was_renamed_is_the_same(hosted: LocalSite, running: JobSpec) -> None:
    edit_claim(running.ref, host="old-name")
    assert hosted.status(running.ref).state is JobState.RUNNING


def test_a_claim_emptied_by_a_power_cut_still_counts(hosted: LocalSite, running: JobSpec) -> None:
    kill_all(hosted, running)
    Path(running.ref.attempt_dir, "started").write_text("")
    hosted.backend.submit(running)
    assert hosted.status(running.ref).state is JobState.LOST
    assert hosted.runs(running.ref) == 1


def test_an_exit_record_emptied_by_a_power_cut_is_none(hosted: LocalSite, running: JobSpec) -> None:
    kill_all(hosted, running)
    Path(running.ref.attempt_dir, "exit.json").write_text("")
    assert hosted.status(running.ref).state is JobState.LOST


def test_a_claim_that_is_gone(hosted: LocalSite, running: JobSpec) -> None:
    Path(running.ref.attempt_dir, "started").unlink()
    assert hosted.status(running.ref).state is JobState.RUNNING
    bare = replace(running.ref, native_id=None)
    assert hosted.status(bare).state is JobState.UNKNOWN
    kill_all(hosted, running)
    assert hosted.status(running.ref).state is JobState.LOST
    assert hosted.status(bare).state is JobState.UNKNOWN


@pytest.mark.parametrize("native_id", ["", "x", "h:b:1", "h:b:x:1", "h:b:1:-1", "a:b:1:2:3"])
def test_a_native_id_of_another_kind_says_nothing(hosted: LocalSite, native_id: str) -> None:
    ref = replace(hosted.ref(), native_id=native_id)
    assert hosted.status(ref).state is JobState.UNKNOWN


@here_only
def test_a_file_that_cannot_be_read(hosted: LocalSite, running: JobSpec) -> None:
    Path(running.ref.attempt_dir, "exit.json").mkdir()
    good = hosted.spec("true")
    hosted.backend.submit(good)
    hosted.wait_end(good.ref)
    found = hosted.backend.status([running.ref, good.ref])
    assert found[running.ref.token].state is JobState.UNKNOWN
    assert "exit.json: Is a directory" in found[running.ref.token].reason
    assert found[good.ref.token].state is JobState.SUCCEEDED
    Path(running.ref.attempt_dir, "exit.json").rmdir()


@here_only
def test_processes_are_looked_at_only_if_a_job_seems_lost(
    hosted: LocalSite, running: JobSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Callable[[], object]] = []
    scan = processes.scan

    def counted() -> processes.ProcessTable:
        looks.append(scan)
        return scan()

    monkeypatch.setattr(processes, "scan", counted)
    assert hosted.status(running.ref).state is JobState.RUNNING
    assert len(looks) == 0
    lost = []
    for _ in range(30):
        ref = hosted.ref()
        Path(ref.attempt_dir).mkdir(parents=True)
        started = Path(running.ref.attempt_dir, "started").read_text()
        Path(ref.attempt_dir, "started").write_text(started)
        edit_claim(ref, start=1)
        lost.append(ref)
    found = hosted.backend.status([running.ref, *lost])
    assert {found[ref.token].state for ref in lost} == {JobState.LOST}
    assert len(looks) == 2


def test_a_claim_of_a_cancel_is_nowhere() -> None:
    claim = Claim(0, 0, "h", "b", "m", "n", 0.0, 0.0)
    assert claim.where is Where.NOWHERE


@pytest.mark.parametrize(
    ("code", "reason", "state", "says"),
    [
        (0, "exit", JobState.SUCCEEDED, ""),
        (1, "exit", JobState.FAILED, "exit code 1"),
        (137, "signal", JobState.FAILED, "signal: it was ended by SIGKILL (exit code 137)"),
        (255, "signal", JobState.FAILED, "exit code 255"),
        (124, "walltime", JobState.FAILED, "walltime: it was stopped at its time limit"),
        (0, "walltime", JobState.FAILED, "walltime: it was stopped at its time limit"),
        (0, "cancelled", JobState.CANCELLED, "cancelled"),
        (None, "no reason given", JobState.FAILED, "no reason given"),
        (None, "", JobState.FAILED, "no exit code"),
    ],
)
def test_exit_records(code: int | None, reason: str, state: JobState, says: str) -> None:
    status = ended(ExitRecord(code, 1.0, 2.0, reason), cancelled=False)
    assert (status.state, status.reason, status.exit_code) == (state, says, code)
    assert ended(ExitRecord(code, 1.0, 2.0, reason), cancelled=True).state is JobState.CANCELLED


def test_no_refs_no_look() -> None:
    assert evidence.judge([]) == {}
