"""A step that kills its worker every time is given up; healthy work behind it goes on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection

from services.fleet import Fleet, Layout
from services.processes import wait_for
from wlm_tasks import Experiment, ExperimentFailedError, Transfer, plugins

#: A storage plug-in whose transfer kills a process of its worker: an outage no handler catches.
PLUGIN = """
import os, signal
from wlm_tasks.storage.base import StorageBackend

class Deadly(StorageBackend):
    schemes = frozenset({"deadly"})

    def source(self, url):
        victim = os.getppid() if "main" in url else os.getpid()
        os.kill(victim, signal.SIGKILL)
        signal.pause()

    def size(self, url):
        return 0
"""


@pytest.fixture
def deadly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install the plug-in for this test and the processes it starts."""
    site = tmp_path / "plugins"
    info = site / "deadly-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "deadly.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: deadly\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[wlm_tasks.storage]\ndeadly = deadly:Deadly\n")
    monkeypatch.setenv("PYTHONPATH", f"{site}:{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.syspath_prepend(str(site))
    # plug-ins are looked for once in a process, and an earlier test may have done that
    plugins._found.cache_clear()
    yield
    plugins._found.cache_clear()


@pytest.mark.usefixtures("deadly")
@pytest.mark.timeout(240)
@pytest.mark.parametrize("victim", ["child", "main"])
def test_poison_fails_and_the_healthy_finish(tmp_path: Path, broker_url: str, victim: str) -> None:
    # Workers that lead their own group die alone, so the supervisor has something to restart.
    with Fleet(tmp_path, broker_url, Layout(concurrency=1)) as fleet:
        poison = fleet.client.schedule(
            Experiment(
                name="poison",
                site="local",
                commands=["true"],
                inputs=[Transfer(f"deadly://{victim}/x", "x")],
            )
        )
        healthy = [
            fleet.client.schedule(Experiment(name="healthy", site="local", commands=["true"]))
            for _ in range(5)
        ]
        with pytest.raises(ExperimentFailedError, match="its worker died 3 times"):
            poison.wait(150)
        for handle in healthy:
            handle.wait(100)
        step = next(step for step in poison.steps if step.name == "stage_in")
        runs = [
            event
            for event in fleet.client.store.views.events(poison.id)
            if event.step == step.seq and event.state == "RUNNING"
        ]
        assert 3 <= len(runs) <= 4, "three attempts, and the take-over that gives up"
        if victim == "main":
            assert fleet.restarts >= 3

        def dead_letters() -> int:
            with Connection(broker_url) as connection:
                channel: Any = connection.default_channel
                return int(channel.queue_declare("wlm.dead", passive=True).message_count)

        wait_for(dead_letters, 20, "the message in the dead-letter queue")
