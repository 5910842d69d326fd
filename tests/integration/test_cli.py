"""The command line as it is used: real processes, the embedded system, a real broker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection, Queue

from services.fixtures import Spawn
from services.processes import alive, script, wait_for
from wlm_tasks.model.steps import ALL_QUEUES

EXAMPLES = Path(__file__).parents[2] / "examples"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of every process of a test."""
    monkeypatch.setenv("WLM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "100")
    return dict(os.environ)


@pytest.fixture
def wlm(environ: Mapping[str, str], tmp_path: Path) -> Run:
    """Run a command to its end."""

    def run(
        *args: str, code: int = 0, stdin: str | None = None, program: str = "wlm"
    ) -> subprocess.CompletedProcess[str]:
        ran = subprocess.run(
            [script(program), *args],
            input=stdin, capture_output=True, text=True, check=False,
            env=environ, cwd=tmp_path, timeout=100,
        )  # fmt: skip
        assert ran.returncode == code, (ran.stdout, ran.stderr)
        assert "Traceback" not in ran.stderr
        return ran

    return run


@pytest.fixture
def sleeper(tmp_path: Path) -> str:
    """File of an experiment that leaves its process id and then takes `s` seconds."""
    path = tmp_path / "sleeper.toml"
    path.write_text(
        'name = "sleeper"\nsite = "local"\nparams = {s = 300}\n'
        f'commands = ["echo $$ > {tmp_path}/pid", "sleep {{s}}"]\n'
    )
    return str(path)


def _json(ran: subprocess.CompletedProcess[str]) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(ran.stdout)
    return found


def test_one_command_on_the_first_day(wlm: Run) -> None:
    ran = wlm("run", str(EXAMPLES / "hello.toml"), "--wait", "-p", "who=you")
    assert "DONE in" in ran.stdout
    assert "| Hello you, this is" in ran.stdout
    assert "this command does the work itself" in ran.stderr
    [one] = _json(wlm("ls", "-o", "json"))
    assert (one["name"], one["state"]) == ("hello", "DONE")
    ids = wlm("ls", "-o", "ids").stdout
    assert "Hello you" in wlm("logs", "-", stdin=ids).stdout
    assert wlm("why", "-", stdin=ids).stdout == f"{one['id']}  done\n"


def test_a_sweep_with_a_failing_member(wlm: Run, tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(
        'name = "x"\nsite = "local"\ncommands = ["echo {n} is wrong >&2", "exit {n}"]\n'
    )
    ran = wlm("run", "x.toml", "--sweep", "n=0,3", "--wait", code=1)
    assert "2 members: 1 DONE, 1 FAILED" in ran.stdout
    assert "x n=3" not in ran.stderr
    assert "exit code 3" in ran.stdout
    one = wlm("run", "x.toml", "-p", "n=4", "--wait", code=1)
    assert "  | 4 is wrong\n" in one.stdout
    assert wlm("run", "x.toml", "-p", "n=5", "--wait", "-o", "json", code=1).stdout.count("{") == 3


def test_below_celery(wlm: Run) -> None:
    wlm("run", str(EXAMPLES / "hello.toml"))
    listed = wlm("-A", "wlm_tasks", "wlm", "ls", "-o", "json", program="celery")
    assert [one["state"] for one in _json(listed)] == ["QUEUED"]
    told = wlm("-A", "wlm_tasks", "wlm", "why", "exp-zzz", program="celery", code=2)
    assert told.stderr.splitlines()[-1].startswith("wlm: error: id: got 'exp-zzz'")


def test_up_works_alone_until_it_is_stopped(
    wlm: Run, spawn: Spawn, sleeper: str, tmp_path: Path
) -> None:
    up = spawn([script("wlm"), "up"], name="up")
    up.wait_for_output("wlm is up", 30)
    assert f"process {up.pid} does the work" in wlm("up", code=2).stderr
    assert "all is well" in wlm("doctor").stdout
    running = wlm("run", sleeper, "-o", "ids").stdout.strip()
    wait_for((tmp_path / "pid").is_file, 20, "the job")
    payload = int((tmp_path / "pid").read_text())
    timed_out = wlm("run", sleeper, "--key", "k", "--wait", "--timeout", "0.3", code=1)
    assert "not ended after 0.3 s" in timed_out.stderr
    told = wlm("cancel", running, "--wait")
    assert told.stdout == f"{running}  CANCELLED\n"
    assert not alive(payload)
    wlm("cancel", wlm("ls", "-s", "active", "-o", "ids").stdout.strip(), "--wait")
    up.send(signal.SIGTERM)
    assert up.wait(30) == 0
    assert f"{running}  CANCELLED  sleeper" in up.output


def test_whoever_waits_takes_over_from_an_up_that_is_killed(
    wlm: Run, spawn: Spawn, sleeper: str, tmp_path: Path
) -> None:
    up = spawn([script("wlm"), "up"], name="up")
    up.wait_for_output("wlm is up", 30)
    run = spawn([script("wlm"), "run", sleeper, "-p", "s=2", "--wait"], name="run")
    run.wait_for((tmp_path / "pid").is_file, 30, "the job")
    up.kill_group()
    assert run.wait(60) == 0
    assert "this command does the work itself" in run.output
    assert [one["state"] for one in _json(wlm("ls", "-o", "json"))] == ["DONE"]


def test_an_interrupted_wait_loses_nothing(
    wlm: Run, spawn: Spawn, sleeper: str, tmp_path: Path
) -> None:
    run = spawn([script("wlm"), "run", sleeper, "-p", "s=3", "--key", "k", "--wait"], name="run")
    run.wait_for((tmp_path / "pid").is_file, 30, "the job")
    run.send(signal.SIGINT)
    assert run.wait(30) == 130
    assert "To stop it: wlm cancel" in run.output
    again = wlm("run", sleeper, "-p", "s=3", "--key", "k", "--wait")
    assert "DONE in" in again.stdout
    assert len(_json(wlm("ls", "-o", "json"))) == 1


def test_a_reader_that_goes_away_is_no_error(wlm: Run, environ: Mapping[str, str]) -> None:
    wlm("run", str(EXAMPLES / "hello.toml"), "--sweep", f"who={','.join(map(str, range(300)))}")
    line = f"{script('wlm')} ls --all | head -n 1; exit ${{PIPESTATUS[0]}}"
    ran = subprocess.run(
        ["bash", "-c", line], env=environ, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("ID ")


@pytest.mark.parametrize(
    "args", [["run", "nothing.toml"], ["show", "exp-zzz"], ["shwo"], ["ls", "-n", "x"], ["control"]]
)
def test_a_mistake_shows_no_traceback(wlm: Run, args: list[str]) -> None:
    told = wlm(*args, code=2)
    assert told.stdout == ""
    assert told.stderr.startswith("wlm: error: ")
    assert told.stderr.count("\n") == 1


SMALL_DEMO = """
import shutil, sys
from pathlib import Path
from typing import Any
from wlm_tasks.cli import demo, main
small = Path("small")
shutil.copytree(demo._example(), small)
text = (small / "ising.in").read_text()
for old, new in (("= 48", "= 8"), ("= 2000 ", "= 20 "), ("= 20000", "= 400")):
    assert old in text
    text = text.replace(old, new)
(small / "ising.in").write_text(text)
demo._example = lambda: small
sys.exit(main.main(["demo"]))
"""


@pytest.mark.slow
def test_the_demo_ends_with_a_picture(environ: Mapping[str, str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    ran = subprocess.run(
        [sys.executable, "-c", SMALL_DEMO],
        env=environ, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=110,
    )  # fmt: skip
    assert ran.returncode == 0, (ran.stdout, ran.stderr)
    picture = tmp_path / "wlm-demo" / "ising.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert len(list((tmp_path / "wlm-demo" / "results").glob("T*.json"))) == 12
    assert "wlm-demo/ising.png" in ran.stdout
    assert "12 done" in ran.stdout
    assert not (tmp_path / "data").exists()


@pytest.fixture
def fleet(
    wlm: Run, broker_url: str, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """The environment of a fleet: a real broker, and tables that were made on purpose."""
    environ["WLM_BROKER_URL"] = broker_url
    monkeypatch.setenv("WLM_BROKER_URL", broker_url)
    assert "run: wlm db upgrade" in wlm("ls", code=2).stderr
    wlm("db", "upgrade")
    return environ


def _findings(ran: subprocess.CompletedProcess[str]) -> dict[str, dict[str, str]]:
    return {one["name"]: one for one in _json(ran)}


def test_doctor_and_queues_with_a_broker(
    wlm: Run, fleet: Mapping[str, str], spawn: Spawn, broker_url: str
) -> None:
    found = _findings(wlm("doctor", "-o", "json"))
    assert "RabbitMQ 3" in found["broker"]["text"] or "RabbitMQ 4" in found["broker"]["text"]
    assert "queue jobsub" in found["queues"]["text"]
    assert found["queues"]["level"] == "warn"
    assert found["control"]["mend"] == "wlm control"

    control = spawn([script("wlm"), "control"], name="control")
    wait_for(
        lambda: "queues and exchanges are there" in wlm("doctor", "-o", "json").stdout,
        30,
        "the queues",
    )
    found = _findings(wlm("doctor", "-o", "json"))
    assert found["queues"]["level"] == "ok"
    assert found["control"]["level"] == "ok"
    assert found["workers"]["mend"] == f"celery -A wlm_tasks worker -Q {','.join(ALL_QUEUES)}"
    wlm("run", str(EXAMPLES / "hello.toml"))
    rows = {one["name"]: one for one in _json(wlm("queues", "-o", "json"))}
    assert rows["envsetup"] == {
        "name": "envsetup",
        "steps": ["setup"],
        "ready": 1,
        "messages": 1,
        "consumers": 0,
    }
    control.send(signal.SIGTERM)
    assert control.wait(20) == 0

    with Connection(broker_url) as connection:
        channel: Any = connection.default_channel
        channel.queue_delete("jobsub")
        Queue("jobsub", durable=True, queue_arguments={"x-max-priority": 3})(channel).declare()
    shown = wlm("doctor", code=1).stdout
    assert "[FAIL] queue jobsub: PRECONDITION_FAILED" in shown
    assert shown.count("[FAIL]") == 1
    assert "x-" in shown
    assert "rabbitmqctl delete_queue -p VHOST jobsub" in shown


def test_control_waits_for_its_broker(
    wlm: Run, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, spawn: Spawn
) -> None:
    environ["WLM_BROKER_URL"] = "amqp://wlm@127.0.0.1:1/wlm"
    monkeypatch.setenv("WLM_BROKER_URL", environ["WLM_BROKER_URL"])
    wlm("db", "upgrade")
    accepted = wlm("run", str(EXAMPLES / "hello.toml"))
    assert "accepted: hello" in accepted.stdout
    assert "accepted, sent later: broker: " in accepted.stderr
    control = spawn([script("wlm"), "control"], name="control")
    control.wait_for_output("duty publish: broker: ", 40)
    assert control.running
    control.send(signal.SIGINT)
    assert control.wait(30) == 0


def test_up_is_refused_with_a_broker(wlm: Run, environ: dict[str, str]) -> None:
    environ["WLM_BROKER_URL"] = "amqp://wlm:geheim@127.0.0.1:1/wlm"
    told = wlm("up", code=2)
    assert "start `wlm control` and `celery -A wlm_tasks worker" in told.stderr
    assert "geheim" not in told.stderr
