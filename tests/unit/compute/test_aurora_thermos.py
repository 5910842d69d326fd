"""What runs on the agent: order, limits, and text that stays text."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from services.processes import alive
from wlm_tasks.compute.aurora.thermos import (
    Amounts,
    Process,
    command_line,
    executor_data,
    guard_processes,
)
from wlm_tasks.compute.base import JobRef

ODD = [
    "{{State}} {{ .State }} {{&foo}} {{{x}}}",
    "'\"`$(echo no)`\\ %s @TOKEN@",
    "\u00e9\U0001f9ea\udcff",
    "line\nline\ttab",
    "-n",
    "",
]


@pytest.mark.parametrize("text", ODD)
def test_no_text_is_taken_for_a_variable(text: str) -> None:
    script = f"printf %s \"$(cat <<'E_O_F'\n{text}\nE_O_F\n)\""
    command = command_line(script)
    assert "{{" not in command
    assert command.isascii()
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=True)
    assert done.stdout == text.encode(errors="surrogateescape")


def test_the_exit_code_is_the_script_s() -> None:
    assert subprocess.run(["bash", "-c", command_line("exit 7")], check=False).returncode == 7


def test_processes_are_ordered_and_fail_once() -> None:
    data = json.loads(
        executor_data(
            cluster="c",
            role="r",
            environment="e",
            name="n",
            amounts=Amounts(cpus=2, memory_mb=3, disk_mb=4, gpus=1),
            processes=[Process("one", "a"), Process("two", "b"), Process("end", "c", final=True)],
        )
    )
    task = data["task"]
    assert {key: data[key] for key in ("cluster", "role", "environment", "name")} == {
        "cluster": "c",
        "role": "r",
        "environment": "e",
        "name": "n",
    }
    assert task["constraints"] == [{"order": ["one", "two"]}]
    assert [(p["name"], p["final"], p["max_failures"]) for p in task["processes"]] == [
        ("one", False, 1),
        ("two", False, 1),
        ("end", True, 1),
    ]
    assert task["max_failures"] == 1
    assert task["resources"] == {"cpu": 2.0, "ram": 3 << 20, "disk": 4 << 20, "gpu": 1}


def run(process: Process, sandbox: Path) -> int:
    sandbox.mkdir(exist_ok=True)
    command = ["bash", "-c", command_line(process.script)]
    return subprocess.run(command, cwd=sandbox, check=False, capture_output=True).returncode


def test_an_agent_that_does_not_see_the_scratch(tmp_path: Path) -> None:
    check, job, record = guard_processes(JobRef(token="t", workdir=str(tmp_path / "it's")))
    assert (check.final, job.final, record.final) == (False, False, True)
    assert run(check, tmp_path / "sandbox") == 1
    assert run(record, tmp_path / "sandbox") == 0


@pytest.mark.parametrize("mine", [True, False])
def test_the_end_of_a_guard_that_was_killed_is_told_by_its_own_task(
    tmp_path: Path, mine: bool
) -> None:
    ref = JobRef(token="t", workdir=str(tmp_path / "it's"))
    attempt, sandbox = Path(ref.attempt_dir), tmp_path / "sandbox"
    attempt.mkdir(parents=True)
    script = f"""cd "{attempt}"
read -r boot < /proc/sys/kernel/random/boot_id
read -r line < "/proc/$$/stat"
line=(${{line##*) }})
printf '{{"pid":%s,"start":%s,"boot":"%s","host":"h"}}' $$ "${{line[19]}}" "$boot" > started
WLM_JOB_TOKEN=t setsid sleep 60 > /dev/null 2>&1 &
echo $! > left
kill -KILL $$
"""
    (attempt / "job.sh").write_text(script)
    check, job, record = guard_processes(ref)
    assert run(check, sandbox) == 0
    assert run(job, sandbox) == -9
    if not mine:
        (sandbox / ".wlm-guard").write_text("another-boot 1 2\n")
    assert run(record, sandbox) == 0
    left = int((attempt / "left").read_text())
    assert alive(left) is not mine
    if mine:
        told = json.loads((attempt / "exit.json").read_text())
        assert (told["code"], told["reason"]) == (None, "its guard was killed")
        assert run(record, sandbox) == 0
        assert json.loads((attempt / "exit.json").read_text()) == told
    else:
        assert not (attempt / "exit.json").exists()
        os.kill(left, signal.SIGKILL)
