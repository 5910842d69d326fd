"""What runs in a sandbox, process by process, without Aurora: who ends early, and what is told."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest
from integration.aurora.conftest import DeafServer

from services.processes import wait_for
from services.webfiles import WebFiles
from wlm_tasks.compute.attempt import ExitRecord
from wlm_tasks.compute.aurora.sandbox import processes
from wlm_tasks.compute.base import JobRef, JobSpec, JobState
from wlm_tasks.compute.evidence import ended
from wlm_tasks.model.experiment import Resources, Transfer

SECRET: Final = "X-Amz-Signature=5ecre7"
#: what a sandbox may call, each of which tells its arguments
TOLD: Final = ("curl", "mv", "cp", "ln", "cat", "sha256sum", "timeout", "bash", "realpath", "stat")


class Sandbox:
    """The processes of one job, each run when a test says so; `web` takes its uploads."""

    def __init__(self, directory: Path, web: WebFiles) -> None:
        self.top = directory / "container"
        self.path = self.top / "sandbox"
        self.tools = directory / "tools"
        self.log = directory / "arguments"
        self._record = web.directory / "runs" / "t1.exit.json"
        self._upload_url = f"{web.url}/runs"
        self._scripts: dict[str, str] = {}
        self.said = ""
        self.path.mkdir(parents=True)
        self.tools.mkdir()

    def unpack(
        self, script: str, *, inputs: Sequence[Transfer] = (), outputs: Sequence[Transfer] = (),
        transfer_s: int = 60,
    ) -> None:  # fmt: skip
        """Have the scripts of a job in place."""
        spec = JobSpec(
            ref=JobRef(token="t1", workdir="/nowhere/w", stop_grace_s=0.2),
            script=script,
            resources=Resources(walltime_s=60),
            inputs=inputs,
            outputs=outputs,
        )
        found = processes(spec, upload_url=self._upload_url, transfer_s=transfer_s)
        self._scripts = {process.name: process.script for process in found}
        assert self.run("unpack") == 0

    def run(self, name: str) -> int:
        """Run a process to its end; returns its exit code."""
        process = self.begin(name)
        self.said += process.communicate(timeout=30)[0]
        return process.returncode

    def begin(self, name: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", "-c", self._scripts[name]],
            cwd=self.path,
            env=os.environ | {"PATH": f"{self.tools}:{os.environ['PATH']}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def tool(self, name: str, text: str) -> None:
        """Have another program of a name."""
        file = self.tools / name
        file.write_text(f"#!/bin/bash\n{text}\n")
        file.chmod(0o700)

    def tell_arguments(self) -> None:
        """Have every program of `TOLD` note its arguments, which others on an agent may read."""
        for name in TOLD:
            self.tool(name, f'echo "{name} $*" >> {self.log}\nexec {shutil.which(name)} "$@"')

    def record(self) -> ExitRecord:
        """What the final process uploads."""
        assert self.run("record") == 0
        return ExitRecord.of_json(json.loads(self._record.read_text()))


@pytest.fixture
def sandbox(tmp_path: Path, web: WebFiles) -> Sandbox:
    """A sandbox without a job."""
    return Sandbox(tmp_path, web)


def one_output(url: str) -> list[Transfer]:
    return [Transfer("out", url)]


def test_what_was_sent_is_noted_after_the_last_upload(sandbox: Sandbox, web: WebFiles) -> None:
    outputs = [Transfer("out", f"{web.url}/a"), Transfer("out", f"{web.url}/403/b")]
    sandbox.unpack("echo x > out", outputs=outputs)
    assert [sandbox.run(name) for name in ("start", "job", "check", "send")] == [0, 0, 0, 1]
    assert not (sandbox.path / ".wlm" / "sent").exists()
    sandbox.unpack("true", outputs=outputs[:1])
    (sandbox.path / ".wlm" / "fault").unlink()
    assert sandbox.run("send") == 0
    assert (sandbox.path / ".wlm" / "sent").exists()
    assert ended(sandbox.record(), cancelled=False).state is JobState.SUCCEEDED


def test_outputs_that_nobody_sent(sandbox: Sandbox, web: WebFiles) -> None:
    """As when `send` is killed: it cannot tell anything."""
    sandbox.unpack("echo x > out", outputs=one_output(f"{web.url}/a"))
    assert [sandbox.run(name) for name in ("start", "job", "check")] == [0, 0, 0]
    record = sandbox.record()
    assert (record.code, record.reason) == (None, "its outputs were not all sent")
    assert record.start is not None
    assert ended(record, cancelled=False).state is JobState.FAILED


def test_an_agent_without_curl(sandbox: Sandbox, web: WebFiles) -> None:
    sandbox.unpack("echo x > out", outputs=one_output(f"{web.url}/a"))
    assert [sandbox.run(name) for name in ("start", "job", "check")] == [0, 0, 0]
    sandbox.tool("curl", "exit 127")
    assert sandbox.run("send") == 1
    (sandbox.tools / "curl").unlink()
    assert sandbox.record().reason.endswith("curl's exit code 127")


def test_a_fault_for_which_there_was_no_room(sandbox: Sandbox) -> None:
    sandbox.unpack("true")
    assert [sandbox.run(name) for name in ("start", "job", "check")] == [0, 0, 0]
    (sandbox.path / ".wlm" / "fault").touch()
    record = sandbox.record()
    assert record.code is None
    assert "could not be noted: is the disk full?" in record.reason


def test_a_guard_that_did_not_run_the_job(sandbox: Sandbox, web: WebFiles) -> None:
    sandbox.unpack("echo x > out", outputs=one_output(f"{web.url}/a"))
    sandbox.tool("ln", "exit 1")  # a file system without hard links
    assert [sandbox.run(name) for name in ("start", "job", "check")] == [0, 0, 1]
    record = sandbox.record()
    assert (record.code, record.reason) == (None, "ended before its payload was started")


def test_a_guard_whose_process_is_started_a_second_time(sandbox: Sandbox, web: WebFiles) -> None:
    sandbox.unpack(
        "echo ran >> runs; until [ -e go ]; do sleep 0.02; done; echo x > out",
        outputs=one_output(f"{web.url}/a"),
    )
    assert sandbox.run("start") == 0
    work = sandbox.path / "work"
    with sandbox.begin("job") as first:
        wait_for((work / "runs").exists, what="the payload")
        assert sandbox.run("job") == 0  # it finds the claim taken
        assert sandbox.record().reason == "ended while its guard was still at work"
        with sandbox.begin("check") as check:
            # nothing is judged while the first is at work
            with pytest.raises(subprocess.TimeoutExpired):
                check.wait(timeout=0.3)
            (work / "go").touch()
            assert check.wait(timeout=20) == 0
        assert first.wait(timeout=20) == 0
    assert sandbox.run("send") == 0
    assert sandbox.record().code == 0
    assert (work / "runs").read_text() == "ran\n"


def test_a_guard_that_was_killed(sandbox: Sandbox) -> None:
    sandbox.unpack("sleep 60")
    assert sandbox.run("start") == 0
    with sandbox.begin("job") as job:
        wait_for((sandbox.path / ".wlm" / "job" / "stdout").exists, what="the payload")
        job.kill()
    assert sandbox.run("check") == 1
    assert sandbox.record().reason == "its guard was killed"


def test_secrets_of_urls_are_no_arguments_and_in_no_message(
    sandbox: Sandbox, web: WebFiles
) -> None:
    (sandbox.top / f"in.txt?{SECRET}").write_text("x")
    source = f"{web.url}/in.txt?{SECRET}"
    sandbox.unpack(
        "cmp once twice",
        inputs=[Transfer(source, "once"), Transfer(source, "twice")],
        outputs=[
            Transfer("once", f"{web.url}/out?{SECRET}"),
            Transfer("twice", f"{web.url}/403/out?{SECRET}"),
        ],
    )
    sandbox.tell_arguments()
    names = ("place", "start", "job", "check", "send")
    assert [sandbox.run(name) for name in names] == [0, 0, 0, 0, 1]
    assert (web.directory / f"out?{SECRET}").read_text() == "x"
    record = sandbox.record()
    assert "/403/out?...' was not taken by its server: status 403" in record.reason
    assert "curl -q" in sandbox.log.read_text()
    assert SECRET not in sandbox.log.read_text()
    assert SECRET not in record.reason + sandbox.said


def test_a_file_that_is_not_there_after_its_upload(sandbox: Sandbox, web: WebFiles) -> None:
    sandbox.unpack("echo x > out", outputs=one_output(f"{web.url}/dropped/a"))
    assert [sandbox.run(name) for name in ("start", "job", "check", "send")] == [0, 0, 0, 1]
    assert sandbox.record().reason.endswith("/dropped/a' is not there after the upload: status 404")


def test_a_server_that_does_not_tell_the_size(sandbox: Sandbox, web: WebFiles) -> None:
    sandbox.unpack("echo x > out", outputs=one_output(f"{web.url}/moved/a"))
    assert [sandbox.run(name) for name in ("start", "job", "check", "send")] == [0, 0, 0, 0]


def test_outputs_that_take_too_long(sandbox: Sandbox, deaf: DeafServer) -> None:
    sandbox.unpack("echo x > out", outputs=one_output(f"{deaf.url}/a"), transfer_s=1)
    assert [sandbox.run(name) for name in ("start", "job", "check")] == [0, 0, 0]
    assert sandbox.run("send") == 124
    told = "the outputs were not all sent, for which there are 1 s"
    assert sandbox.record().reason == told
