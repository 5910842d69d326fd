"""Work goes through with the rights that deploy/ gives, from a single chain to the whole system."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from integration.deploy.broker import ROOT, DeployedBroker
from kombu import Message, Producer, Queue

from services.fixtures import Spawn
from services.processes import script, wait_for
from wlm_tasks.control.queues import EVENTS

pytestmark = pytest.mark.rabbitmq

WORKER_APP = """
import os

from celery import Celery
from celery.exceptions import Reject

app = Celery("wlm_tasks", broker=os.environ["URL"])
app.config_from_object("celeryconfig")


@app.task(name="wlm.setup")
def setup(experiment_id):
    pass


@app.task(name="wlm.submit")
def submit(experiment_id):
    raise Reject("poison", requeue=False)
"""

CONTROL = """
from celery import chain
from two_steps import app

signatures = [
    app.signature(name, args=("exp-1",), immutable=True, options={"queue": queue, "priority": 4})
    for name, queue in (("wlm.setup", "envsetup"), ("wlm.submit", "jobsub"))
]
chain(*signatures, app=app).apply_async()
seen = []
with app.connection() as connection:
    receiver = app.events.Receiver(
        connection, handlers={"worker-heartbeat": lambda event: setattr(receiver, "should_stop", 1)}
    )
    receiver.capture(limit=None, timeout=20)
print("ping", app.control.inspect(timeout=3).ping())
"""


def test_a_chain_goes_through_a_worker_into_the_dead_letters(
    empty: DeployedBroker, spawn: Spawn, tmp_path: Path
) -> None:
    (tmp_path / "two_steps.py").write_text(WORKER_APP)
    (tmp_path / "control.py").write_text(CONTROL)
    path = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    words = [script("celery"), "-A", "two_steps", "worker", "-E", "-P", "solo", "-l", "INFO"]
    words += ["-n", "w1@%h"]
    worker = spawn(words, name="worker", env={**path, "URL": empty.url("wlm-worker")}, cwd=tmp_path)
    worker.wait_for_output("ready.", timeout=30.0)
    environment = {**path, "URL": empty.url("wlm-control")}
    control = spawn([sys.executable, "control.py"], name="control", env=environment, cwd=tmp_path)
    assert control.wait(timeout=40.0) == 0, control.output
    assert re.search(r"'w1@\S+': \{'ok': 'pong'\}", control.output)
    with empty.connect("wlm-control") as connection:
        channel: Any = connection.default_channel
        dead = wait_for(lambda: channel.basic_get("wlm.dead", no_ack=True), what="a dead letter")
    assert dead.headers["task"] == "wlm.submit"
    assert dead.headers["x-death"][0]["queue"] == "jobsub"
    assert dead.headers["x-first-death-exchange"] == "wlm"
    assert "refused" not in worker.output.lower()


# ---- the orchestrators' example


def _event(key: str, state: str) -> dict[str, Any]:
    return {
        "event": 1,
        "experiment": "exp-1",
        "key": key,
        "sweep": None,
        "state": state,
        "at": 0.0,
        "reason": "exit code 1" if state == "FAILED" else None,
    }


@pytest.mark.parametrize(("last", "code"), [("DONE", 0), ("FAILED", 1)])
def test_the_orchestrator_submits_and_follows(
    empty: DeployedBroker, spawn: Spawn, last: str, code: int
) -> None:
    key = f"run-{last.lower()}"
    process = spawn(
        [
            sys.executable,
            ROOT / "examples" / "orchestrator.py",
            ROOT / "examples" / "hello.toml",
            f"--key={key}",
            "--param=who=you",
        ],
        name="orchestrator",
        env={"ORCHESTRATOR_BROKER": empty.url("wlm-orchestrator")},
    )
    bodies: list[Any] = []

    def taken(body: Any, message: Message) -> None:
        bodies.append((body, message.headers, message.properties))
        message.ack()

    with empty.connect("wlm-worker") as connection:
        scheduler = Queue("scheduler", no_declare=True)
        with connection.Consumer([scheduler], callbacks=[taken], accept=["json"]):
            connection.drain_events(timeout=20.0)
    (args, kwargs, _embedded), headers, properties = bodies[0]
    assert args[0]["name"] == "hello"
    assert kwargs == {"key": key, "params": {"who": "you"}}
    assert headers["task"] == "wlm.schedule"
    assert properties["correlation_id"] == headers["id"]
    with empty.connect("wlm-control") as connection:
        producer = Producer(connection.channel(), exchange=EVENTS)
        for body in (_event("another", "DONE"), _event(key, "RUNNING"), _event(key, last)):
            producer.publish(body, routing_key=f"experiment.exp-1.{body['state']}")
    assert process.wait(timeout=20.0) == code, process.output
    lines = process.output.splitlines()
    assert lines[0] == "exp-1  RUNNING"
    assert lines[1].startswith(f"exp-1  {last}")
    assert len(lines) == 2


def test_the_orchestrator_says_what_it_may_not_do(empty: DeployedBroker, spawn: Spawn) -> None:
    argv: list[str | Path] = [sys.executable, ROOT / "examples" / "orchestrator.py"]
    argv += [ROOT / "examples" / "hello.toml", "--key=k", "--exchange=wlm"]
    process = spawn(argv, name="other", env={"ORCHESTRATOR_BROKER": empty.url("wlm-orchestrator")})
    assert process.wait(timeout=20.0) == 1
    assert "access to exchange 'wlm' in vhost 'wlm' refused" in process.output
    assert process.output.count("\n") == 1


# ---- all of it together


def test_an_experiment_runs_by_messages_alone_with_these_rights(
    empty: DeployedBroker, spawn: Spawn, tmp_path: Path
) -> None:
    environments = {}
    for user in ("wlm-worker", "wlm-control"):
        secret = tmp_path / user
        secret.touch(mode=0o600)
        secret.write_text(empty.url(user))
        environments[user] = {
            "WLM_BROKER_URL": f"file:{secret}",
            "WLM_DATA_DIR": str(tmp_path / "data"),
        }
    on_control, on_worker = environments["wlm-control"], environments["wlm-worker"]
    upgrade = spawn([script("wlm"), "db", "upgrade"], name="upgrade", env=on_control, cwd=tmp_path)
    assert upgrade.wait(timeout=30.0) == 0, upgrade.output
    control = spawn([script("wlm"), "control"], name="control", env=on_control, cwd=tmp_path)
    words = [script("celery"), "-A", "wlm_tasks", "worker", "-E", "-c", "1", "-l", "INFO"]
    worker = spawn(words, name="worker", env=on_worker, cwd=tmp_path)
    worker.wait_for_output("ready.", timeout=30.0)
    orchestrator = spawn(
        [
            sys.executable,
            ROOT / "examples" / "orchestrator.py",
            ROOT / "examples" / "hello.toml",
            "--key=together",
        ],
        name="orchestrator",
        env={"ORCHESTRATOR_BROKER": empty.url("wlm-orchestrator")},
    )
    code = orchestrator.wait(timeout=60.0)
    logs = f"{orchestrator.output}\n{worker.tail()}\n{control.tail()}"
    assert code == 0, logs
    states = [line.split()[1] for line in orchestrator.output.splitlines()]
    assert (states[0], states[-1]) == ("QUEUED", "DONE")
    assert "REFUSED" not in worker.output + control.output, logs
