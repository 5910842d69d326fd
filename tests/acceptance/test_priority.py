"""Promise 7: no lower-priority step starts once an urgent one is ready."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from services.fleet import ALL_QUEUES, Fleet, Layout
from services.processes import wait_for
from wlm_tasks import Client, Experiment, Settings
from wlm_tasks.config.settings import SiteSettings, StagingSettings, StepSettings
from wlm_tasks.control.embedded import running
from wlm_tasks.handles import ExperimentHandle, SweepHandle
from wlm_tasks.model.experiment import Transfer
from wlm_tasks.state.views import EventView, Filter

LOW = 50


def experiment(directory: Path, priority: str) -> Experiment:
    """Steps that take a moment: a file staged in and out at a bounded rate."""
    source = directory / "in.dat"
    source.write_bytes(b"x" * 60_000)
    return Experiment(
        name=priority,
        site="local",
        commands=["true"],
        inputs=[Transfer(str(source), "in.dat")],
        priority=priority,
    )


def overtaken(events: Sequence[EventView], urgent: str, *, same_queue: bool) -> list[EventView]:
    """Starts of other experiments' steps between an urgent step's being ready and its start.

    A step is ready when its experiment is QUEUED (the first) or the step before it is DONE.
    With `same_queue` only steps of the queue in which the urgent one waits count: a worker
    dedicated to another queue cannot take it.
    """
    wrong, ready, waiting = [], False, 0
    for event in events:
        if event.experiment_id == urgent:
            if event.state in ("RUNNING", "SUBMITTED") or (event.step, event.state) == (
                None,
                "DONE",
            ):
                ready = False  # started, or nothing of it waits
            elif event.state == "QUEUED" or (event.state == "DONE" and event.step is not None):
                ready, waiting = True, 0 if event.step is None else event.step + 1
        elif (
            ready
            and event.state == "RUNNING"
            and event.step is not None
            and (event.step == waiting or not same_queue)
        ):
            wrong.append(event)
    return wrong


def urgent_among_low(client: Client, directory: Path) -> tuple[SweepHandle, ExperimentHandle]:
    """Low ones waiting and running, then an urgent one; returns when that has ended."""
    low = client.schedule_sweep(
        experiment(directory, "low").model_copy(update={"commands": ("echo {n}",)}),
        {"n": list(range(LOW))},
    )
    wait_for(
        lambda: any(event.state == "RUNNING" for event in client.store.views.events(limit=500)),
        30,
        "a low step to start",
    )
    urgent = client.schedule(experiment(directory, "urgent"))
    urgent.wait(60)
    return low, urgent


def check(
    client: Client, low: SweepHandle, urgent: ExperimentHandle, *, same_queue: bool = False
) -> None:
    """None was overtaken, and the test was a real one: most low ones still waited."""
    wrong = overtaken(client.store.views.events(limit=10_000), urgent.id, same_queue=same_queue)
    assert wrong == []
    ended = [view for view in client.list(Filter(limit=None)) if view.ended_at is not None]
    assert len(ended) < LOW, "the low experiments had all ended: nothing was shown"
    low.cancel()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("carry_on", ["true", "false"])
@pytest.mark.parametrize(
    "workers", [(ALL_QUEUES,), ("envsetup", "staging", "jobsub,monitor")], ids=["one", "several"]
)
def test_urgent_goes_first_on_rabbitmq(
    tmp_path: Path, broker_url: str, carry_on: str, workers: tuple[str, ...]
) -> None:
    settings = f"[steps]\ncarry_on = {carry_on}\n[staging]\nbytes_per_s = 300000\n"
    layout = Layout(workers=workers, settings=settings, local="max_running = 100")
    with Fleet(tmp_path, broker_url, layout) as fleet:
        low, urgent = urgent_among_low(fleet.client, tmp_path)
        check(fleet.client, low, urgent, same_queue=len(workers) > 1)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("carry_on", [True, False])
def test_urgent_goes_first_embedded(tmp_path: Path, carry_on: bool) -> None:
    site = SiteSettings(
        name="local", kind="local", scratch=str(tmp_path / "scratch"), max_running=100
    )
    settings = Settings(
        data_dir=tmp_path / "data",
        sites={"local": site},
        steps=StepSettings(carry_on=carry_on),
        staging=StagingSettings(bytes_per_s=300_000),
    )
    with running(settings, concurrency=2):
        client = Client(settings)
        low, urgent = urgent_among_low(client, tmp_path)
        check(client, low, urgent)
