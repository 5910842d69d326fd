"""What only a site of real processes can get wrong."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from unit.compute.sites import LocalSite, ignored_signals, stopped_processes

from services.processes import wait_for
from wlm_tasks.bell import Bell
from wlm_tasks.compute import local as module
from wlm_tasks.compute import processes, stopping
from wlm_tasks.compute.base import JobState

TENACIOUS = "trap '' TERM\nwhile :; do sleep 0.05; done"


def test_the_files_of_an_attempt(local: LocalSite) -> None:
    spec = local.spec("pwd; echo oops >&2")
    native_id = local.backend.submit(spec).native_id
    local.wait_end(spec.ref)
    directory = Path(spec.ref.attempt_dir)
    wait_for(lambda: not local.living(spec.ref), what="the guard's end")
    assert {f.name for f in directory.iterdir()} == {
        *("lock", "payload.sh", "job.sh", "started", "stdout", "stderr", "exit.json", "job.log"),
        "alive",
    }
    assert directory.stat().st_mode & 0o777 == 0o700
    assert Path(spec.ref.workdir).stat().st_mode & 0o777 == 0o700
    assert (directory / "stdout").read_text() == f"{spec.ref.workdir}\n"
    assert (directory / "stderr").read_text() == "oops\n"
    assert (directory / "job.log").read_text() == ""
    claim = json.loads((directory / "started").read_text())
    place = processes.here()
    assert native_id == f"{place.host}:{place.boot[:8]}:{claim['pid']}:{claim['start']}"
    record = json.loads((directory / "exit.json").read_text())
    assert record["code"] == 0
    assert record["reason"] == "exit"
    assert time.time() - 60 < record["start"] <= record["end"] <= time.time()


class TestEnvironment:
    def test_only_what_a_job_needs(self, local: LocalSite, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DATABASE_PASSWORD", "hush")
        monkeypatch.setenv("BASH_ENV", "/nonexistent")
        spec = local.spec("exec env -0", variables={"OMP_NUM_THREADS": "4"}, name="melt")
        local.backend.submit(spec)
        local.wait_end(spec.ref)
        found = dict(entry.split("=", 1) for entry in local.output(spec.ref).split("\0")[:-1])
        assert found["WLM_JOB_TOKEN"] == spec.ref.token
        assert found["WLM_JOB_NAME"] == "melt"
        assert found["WLM_JOB_CPUS"] == "1"
        assert found["OMP_NUM_THREADS"] == "4"
        assert found["PATH"] == os.environ["PATH"]
        bash_adds = {"PWD", "OLDPWD", "SHLVL", "_"}
        ours = {"WLM_JOB_TOKEN", "WLM_JOB_NAME", "WLM_JOB_CPUS", "OMP_NUM_THREADS"}
        inherited = {"PATH", "HOME", "USER", "LANG", "TMPDIR", "SHELL"}
        assert set(found) <= bash_adds | ours | inherited

    @pytest.mark.parametrize(
        "value",
        [
            "",
            "two words",
            "'; touch pwned; '",
            "$(touch pwned)`touch pwned`",
            '"; touch pwned; "',
            "a\nb\n@TOKEN@ @BODY@\n",
            "\\'\\\"\\",
            "%s %n ${HOME} !! *",
            "é\udcff\t\x01\x1f",
        ],
    )
    def test_values_and_names_arrive_as_they_are(self, local: LocalSite, value: str) -> None:
        spec = local.spec(
            'printf "%s|%s" "$X" "$WLM_JOB_NAME"',
            variables={"X": value, "timeout": "1", "wlm_timeout": "2", "PATH": "/bin"},
            name=value,
        )
        local.backend.submit(spec)
        local.wait_end(spec.ref)
        output = Path(spec.ref.attempt_dir, "stdout").read_bytes()
        assert output.decode(errors="surrogateescape") == f"{value}|{value}"
        assert not list(local.scratch.rglob("pwned"))

    def test_signals_a_worker_ignores_reach_the_job(self, local: LocalSite) -> None:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            spec = local.spec("grep SigIgn /proc/self/status; sleep 30", stop_signal="INT")
            local.backend.submit(spec)
        finally:
            signal.signal(signal.SIGINT, before)
        wait_for(lambda: "SigIgn" in local.output(spec.ref), what="the output")
        assert not ignored_signals(local.output(spec.ref))
        assert local.backend.cancel(spec.ref)
        assert local.status(spec.ref).exit_code == 128 + signal.SIGINT


class TestEnd:
    def test_death_by_a_signal(self, local: LocalSite) -> None:
        spec = local.spec("kill -SEGV $$")
        local.backend.submit(spec)
        status = local.wait_end(spec.ref)
        assert (status.state, status.exit_code) == (JobState.FAILED, 128 + signal.SIGSEGV)
        assert "SIGSEGV" in status.reason

    @pytest.mark.parametrize(("script", "code"), [("sleep 30", 124), (TENACIOUS, 137)])
    def test_walltime(self, local: LocalSite, script: str, code: int) -> None:
        spec = local.spec(script, walltime_s=0.3, stop_grace_s=0.3)
        local.backend.submit(spec)
        status = local.wait_end(spec.ref)
        assert (status.state, status.exit_code) == (JobState.FAILED, code)
        assert status.reason.startswith("walltime")
        assert status.started_at is not None
        assert status.ended_at is not None
        assert 0.3 <= status.ended_at - status.started_at < 3
        wait_for(lambda: not local.living(spec.ref), what="the end of all")

    def test_a_payload_of_its_own_code_124_has_not_met_its_walltime(self, local: LocalSite) -> None:
        spec = local.spec("exit 124")
        local.backend.submit(spec)
        assert local.wait_end(spec.ref).reason == "exit code 124"

    def test_walltime_is_kept_when_the_guard_is_dead(self, local: LocalSite) -> None:
        spec = local.spec("sleep 30", walltime_s=0.5, stop_grace_s=0.3)
        native_id = local.backend.submit(spec).native_id
        wait_for(lambda: local.runs(spec.ref), what="the start")
        os.kill(int(native_id.split(":")[2]), signal.SIGKILL)
        assert local.status(spec.ref).state is JobState.RUNNING
        assert local.wait_end(spec.ref).state is JobState.LOST

    @pytest.mark.parametrize("trap", ["", "trap '' TERM; "])
    def test_what_a_payload_leaves_behind_is_ended(self, local: LocalSite, trap: str) -> None:
        body = f"{trap}echo $$ > {local.scratch}/pid; while :; do sleep 0.05; done"
        spec = local.spec(
            f"setsid bash -c '{body}' &\nuntil [ -s {local.scratch}/pid ]; do :; done",
            stop_grace_s=0.3,
        )
        local.backend.submit(spec)
        assert local.wait_end(spec.ref).state is JobState.SUCCEEDED
        left = int((local.scratch / "pid").read_text())
        assert processes.look_up(left) is None

    @pytest.mark.parametrize(
        "child",
        [
            "env -i sleep 30",
            "set -m; env -i sleep 30",
            # a name made to confuse whoever reads its state
            "env -i bash -c 'echo \") Z 1 1 1\" > /proc/$$/comm; while :; do :; done'",
        ],
    )
    def test_what_has_dropped_its_environment_is_ended(self, local: LocalSite, child: str) -> None:
        pid = local.scratch / "pid"
        spec = local.spec(
            f"{child} & echo $! > {pid}\n"
            "while grep -qz WLM_JOB_TOKEN /proc/$!/environ; do :; done; sleep 0.1",
            stop_grace_s=0.3,
        )
        local.backend.submit(spec)
        assert local.wait_end(spec.ref).state is JobState.SUCCEEDED
        left = int(pid.read_text())
        try:
            assert processes.look_up(left) is None
        finally:
            with suppress(ProcessLookupError):
                os.kill(left, signal.SIGKILL)

    def test_what_has_dropped_its_environment_is_ended_at_the_walltime(
        self, local: LocalSite
    ) -> None:
        pid = local.scratch / "pid"
        spec = local.spec(
            f"set -m; env -i sleep 30 & echo $! > {pid}; sleep 30",
            walltime_s=0.3,
            stop_grace_s=0.3,
        )
        local.backend.submit(spec)
        assert local.wait_end(spec.ref).reason.startswith("walltime")
        assert processes.look_up(int(pid.read_text())) is None

    def test_a_stopped_payload_is_still_running(self, local: LocalSite) -> None:
        spec = local.spec("kill -STOP $$; exit 5")
        local.backend.submit(spec)
        stopped = wait_for(lambda: stopped_processes(spec.ref.token), what="the stop")
        assert local.status(spec.ref).state is JobState.RUNNING
        os.kill(stopped[0], signal.SIGCONT)
        assert local.wait_end(spec.ref).exit_code == 5

    def test_a_full_bell_does_not_keep_a_job_from_ending(self, local: LocalSite) -> None:
        with Bell(local.bells) as bell:
            with suppress(BlockingIOError):
                while os.write(bell.fileno(), b"x" * 4095 + b"\n"):
                    pass
            os.mkfifo(local.bells / "99999999-dead.bell")
            spec = local.spec("true")
            local.backend.submit(spec)
            local.wait_end(spec.ref)
            wait_for(lambda: not local.living(spec.ref), what="the guard's end")


class TestCancel:
    def test_children_that_left_the_session(self, local: LocalSite) -> None:
        script = (
            f"setsid bash -c '{TENACIOUS}' &\n"
            "setsid sleep 31 &\n"
            "env -i setsid sleep 32 &\n"
            "env -i sleep 33 &\n"
            f"echo go > {local.scratch}/go; wait"
        ).replace("trap ''", 'trap ""')
        spec = local.spec(script, stop_grace_s=0.3)
        native_id = local.backend.submit(spec).native_id
        leader = int(native_id.split(":")[2]), int(native_id.split(":")[3])
        wait_for((local.scratch / "go").exists, what="the start")
        sleeps = {"31", "32", "33"}

        def started() -> bool:
            members.update(processes.scan().of_job(spec.ref.token, leader))
            lines = [processes.command_line(p) for p in members]
            return sleeps <= {line[-1] for line in lines if line[:1] == ["sleep"]}

        members = processes.scan().of_job(spec.ref.token, leader)
        wait_for(started, what="the children")
        assert local.backend.cancel(spec.ref)
        assert [
            p for p in members.values() if processes.look_up(p.pid) == replace(p, token=None)
        ] == []
        assert local.status(spec.ref).state is JobState.CANCELLED

    def test_a_payload_can_clean_up(self, local: LocalSite) -> None:
        script = (
            "trap 'sleep 0.2 && echo saved; exit 0' TERM\necho ready\nwhile :; do sleep 0.05; done"
        )
        spec = local.spec(script, stop_grace_s=5.0)
        local.backend.submit(spec)
        wait_for(lambda: "ready" in local.backend.tail(spec.ref, "stdout", 5), what="the start")
        before = time.monotonic()
        assert local.backend.cancel(spec.ref)
        assert time.monotonic() - before < 4
        assert local.output(spec.ref) == "ready\nsaved\n"
        assert local.status(spec.ref).state is JobState.CANCELLED

    def test_the_signal_asked_for(self, local: LocalSite) -> None:
        script = "trap 'echo usr1; exit 0' USR1\necho ready\nwhile :; do sleep 0.05; done"
        spec = local.spec(script, stop_signal="USR1")
        local.backend.submit(spec)
        wait_for(lambda: "ready" in local.backend.tail(spec.ref, "stdout", 5), what="the start")
        assert local.backend.cancel(spec.ref)
        assert local.output(spec.ref) == "ready\nusr1\n"
        # it was the guard that saw the end, so it was not what the signal went to
        assert local.status(spec.ref).exit_code == 0

    def test_a_stopped_payload(self, local: LocalSite) -> None:
        spec = local.spec("kill -STOP $$; sleep 30", stop_grace_s=5.0)
        local.backend.submit(spec)
        wait_for(lambda: local.runs(spec.ref), what="the start")
        before = time.monotonic()
        assert local.backend.cancel(spec.ref)
        assert time.monotonic() - before < 4

    def test_a_guard_that_is_dead_or_frozen(self, local: LocalSite) -> None:
        for number in (signal.SIGKILL, signal.SIGSTOP):
            spec = local.spec(TENACIOUS, stop_grace_s=0.2)
            native_id = local.backend.submit(spec).native_id
            wait_for(lambda spec=spec: local.runs(spec.ref), what="the start")  # type: ignore[misc]
            os.kill(int(native_id.split(":")[2]), number)
            assert local.backend.cancel(spec.ref)
            status = local.status(spec.ref)
            assert status.state is JobState.CANCELLED
            assert status.ended_at is not None
            assert not local.living(spec.ref)

    def test_what_cannot_be_ended_is_not_confirmed(
        self, local: LocalSite, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spec = local.spec("sleep 30", stop_grace_s=0.1)
        local.backend.submit(spec)
        wait_for(lambda: local.runs(spec.ref), what="the start")
        monkeypatch.setattr(stopping, "_KILL_S", 0.2)
        monkeypatch.setattr(processes, "send", lambda *_args: None)
        assert not local.backend.cancel(spec.ref)
        assert local.status(spec.ref).state is JobState.RUNNING
        monkeypatch.undo()
        assert local.backend.cancel(spec.ref)

    def test_on_a_full_disk(self, local: LocalSite, monkeypatch: pytest.MonkeyPatch) -> None:
        """The guard made room for its evidence when it began; nothing else needs any."""

        def fail(*_args: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        ended, runs = local.spec("true"), local.spec("sleep 30")
        for spec in (ended, runs):
            local.backend.submit(spec)
        local.wait_end(ended.ref)
        monkeypatch.setattr(os, "replace", fail)
        assert local.backend.cancel(ended.ref)
        assert local.backend.cancel(runs.ref)
        assert local.status(runs.ref).state is JobState.CANCELLED

    def test_a_job_of_another_host_is_not_confirmed(self, local: LocalSite) -> None:
        spec = local.spec("sleep 30")
        local.backend.submit(spec)
        wait_for(lambda: local.runs(spec.ref), what="the start")
        started = Path(spec.ref.attempt_dir, "started")
        claim = json.loads(started.read_text())
        started.write_text(
            json.dumps(claim | {"boot": "other", "host": "other", "machine": "other"})
        )
        assert not local.backend.cancel(spec.ref)
        started.write_text(json.dumps(claim))
        assert local.backend.cancel(spec.ref)


class TestTail:
    def test_of_huge_output_that_is_no_text(self, local: LocalSite) -> None:
        spec = local.spec("head -c 20000000 /dev/zero; printf '\\nlast \\377\\n'; seq 100000 >&2")
        local.backend.submit(spec)
        local.wait_end(spec.ref)
        assert local.backend.tail(spec.ref, "stdout", 1) == "last �\n"
        assert len(local.backend.tail(spec.ref, "stdout", 5)) <= module.TAIL_BYTES
        assert local.backend.tail(spec.ref, "stderr", 3) == "99998\n99999\n100000\n"
        assert len(local.backend.tail(spec.ref, "stderr", 10**6)) <= module.TAIL_BYTES

    @pytest.mark.parametrize("what", ["ln -s /etc/passwd", "mkfifo", "mkdir"])
    def test_of_what_is_no_file(self, local: LocalSite, what: str) -> None:
        stdout = ".wlm/$WLM_JOB_TOKEN/stdout"
        spec = local.spec(f"rm {stdout}; {what} {stdout}")
        local.backend.submit(spec)
        local.wait_end(spec.ref)
        assert local.backend.tail(spec.ref, "stdout", 5) == ""
