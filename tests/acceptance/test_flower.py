"""Flower shows workers, queues and every step, with carry-on and without."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from services.fleet import Fleet, Layout
from services.ports import free_port, release_port
from services.processes import Process, script, wait_for
from wlm_tasks import Experiment, Transfer


@pytest.fixture(params=["true", "false"], ids=["carry-on", "each by message"])
def fleet(tmp_path: Path, broker_url: str, request: pytest.FixtureRequest) -> Iterator[Fleet]:
    settings = f"[steps]\ncarry_on = {request.param}\n[staging]\nbytes_per_s = 250_000\n"
    layout = Layout(settings=settings, options=("-E",))
    with Fleet(tmp_path, broker_url, layout) as fleet:
        yield fleet


@pytest.fixture
def flower(fleet: Fleet, tmp_path: Path) -> Iterator[str]:
    """Flower as an operator starts it; its address."""
    port = free_port()
    argv = [script("celery"), "-A", "wlm_tasks", "flower", f"--port={port}"]
    env = {**fleet.environ, "FLOWER_UNAUTHENTICATED_API": "1"}
    with Process(argv, log=tmp_path / "flower.log", env=env) as process:
        url = f"http://127.0.0.1:{port}"

        def up() -> bool:
            try:
                return bool(get(url, "/api/workers?refresh=1"))
            except requests.ConnectionError:
                return False

        process.wait_for(up, 60, "Flower")
        yield url
    release_port(port)


def get(url: str, path: str) -> Any:
    answer = requests.get(url + path, timeout=20)
    return answer.json() if answer.ok else None


@contextmanager
def listening(fleet: Fleet, kind: str) -> Iterator[list[dict[str, Any]]]:
    """Receive Celery's events of one kind in the meantime."""
    seen: list[dict[str, Any]] = []
    ready = threading.Event()
    with fleet.client.app.connection_for_read() as connection:
        receiver = fleet.client.app.events.Receiver(connection, handlers={kind: seen.append})
        receiver.on_consume_ready = lambda *_args, **_more: ready.set()
        thread = threading.Thread(target=receiver.capture, daemon=True)
        thread.start()
        assert ready.wait(30)
        yield seen
        receiver.should_stop = True
        thread.join(30)


@pytest.mark.timeout(180)
def test_every_step_is_a_task_in_flower(fleet: Fleet, flower: str, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("x")
    handle = fleet.client.schedule(
        Experiment.model_validate(
            {
                "name": "shown",
                "site": "local",
                "commands": ["cp in.txt out.txt"],
                "inputs": [{"src": str(tmp_path / "in.txt"), "dest": "in.txt"}],
                "outputs": [{"src": "out.txt", "dest": str(tmp_path / "out.txt")}],
            }
        )
    )
    handle.wait(60)

    def shown() -> dict[str, str]:
        tasks = (get(flower, "/api/tasks?limit=100") or {}).values()
        mine = [task for task in tasks if handle.id in str(task["uuid"])]
        return {task["name"]: task["state"] for task in mine}

    expected = dict.fromkeys(
        ("wlm.setup", "wlm.stage_in", "wlm.submit", "wlm.stage_out"), "SUCCESS"
    )
    wait_for(lambda: shown() == expected, 30, f"four tasks, not {shown()}")
    [worker] = get(flower, "/api/workers").values()
    queues = {queue["name"] for queue in worker["active_queues"]}
    assert queues == {"envsetup", "staging", "jobsub", "monitor", "scheduler"}
    assert (tmp_path / "out.txt").exists()


def test_each_message_of_short_steps_comes_to_its_end_for_whoever_watches(
    tmp_path: Path, broker_url: str
) -> None:
    """Of steps that were done along with another, too: a pool without children knows of them."""
    layout = Layout(settings="[steps]\ncarry_on = false\n", options=("-E", "-P", "solo"))
    with Fleet(tmp_path, broker_url, layout) as fleet, listening(fleet, "*") as seen:
        one = Experiment(
            name="short",
            site="local",
            commands=["true {n}"],
            inputs=[Transfer("noop://lab/in", "in")],
        )
        for handle in fleet.client.schedule_sweep(one, {"n": list(range(40))}):
            handle.wait(60)

        def uuids(kind: str) -> set[str]:
            return {str(event["uuid"]) for event in seen if event["type"] == kind}

        wait_for(lambda: uuids("task-received") >= uuids("task-sent"), 30, "all are received")
        wait_for(lambda: uuids("task-succeeded") == uuids("task-received"), 30, "the end of each")
        steps = {uuid.split(".")[0] for uuid in uuids("task-succeeded") if ".setup." in uuid}
        assert len(steps) == 40


def test_how_far_a_transfer_is_comes_as_events(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "in.dat").write_bytes(bytes(500_000))
    with listening(fleet, "task-progress") as seen:
        handle = fleet.client.schedule(
            Experiment(
                name="slow",
                site="local",
                commands=["true"],
                inputs=[Transfer((tmp_path / "in.dat").as_uri(), "in.dat")],
            )
        )
        wait_for(lambda: seen, 30, "an event")
    told = seen[0]
    assert handle.id in told["uuid"]
    assert 0 < told["progress"].pop("bytes") < 500_000
    assert told["progress"].pop("rate") > 0
    assert told["progress"] == {"file": 0, "files": 1, "total": 500_000}
    handle.wait(60)


def test_nobody_else_on_the_network_reaches_it(flower: str) -> None:
    """Without any option it listens on one address only; 127.0.0.2 would be another."""
    with pytest.raises(requests.ConnectionError):
        requests.get(flower.replace("127.0.0.1", "127.0.0.2"), timeout=10)
