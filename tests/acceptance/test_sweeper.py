"""The sweeper finds what is gone and does not send again what merely waits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection

from services.fleet import Fleet, Layout
from services.processes import wait_for
from wlm_tasks import Experiment
from wlm_tasks.celery import make_app
from wlm_tasks.config import load
from wlm_tasks.control.duties import Duties
from wlm_tasks.control.queues import declare, depths
from wlm_tasks.model.states import FINAL, ExperimentState

MANY = 10_000


@pytest.fixture
def fleet(tmp_path: Path, broker_url: str) -> Iterator[Fleet]:
    """Nobody at work yet; the test's own process does what control does."""
    layout = Layout(workers=(), controls=0, settings="[control]\ngrace_s = 0.2\n")
    with Fleet(tmp_path, broker_url, layout) as fleet:
        yield fleet


def duties(fleet: Fleet) -> Duties:
    return Duties(make_app(load(fleet.config, {"FLEET_MQ": fleet.vhost_url})))


def settled(fleet: Fleet, count: int, queue: str = "envsetup") -> None:
    """Wait until the sent messages are older than the grace and counted by the broker."""
    upkeep = fleet.client.store.upkeep
    wait_for(lambda: upkeep.count_sent(queue, 0.2) == count, 20, "the grace")
    wait_for(lambda: depths(fleet.client.app, [queue])[queue] == count, 20, "the broker's count")


@pytest.mark.timeout(240)
def test_ten_thousand_waiting_and_nothing_lost(fleet: Fleet) -> None:
    """Not one message is added while they wait, and under 1 % while they are worked off."""
    fleet.sweep(MANY, site="noop", commands=["echo {n}"])
    control = duties(fleet)
    assert control.dispatch() == MANY
    settled(fleet, MANY)
    assert [control.sweep() for _ in range(3)] == [0, 0, 0]
    fleet.layout = Layout(concurrency=2)
    fleet.start_worker(0)
    wait_for(
        lambda: fleet.client.store.views.counts().get(ExperimentState.DONE, 0) > MANY // 20,
        120,
        "a twentieth of them",
        interval=0.5,
    )
    added = 0
    for _ in range(20):
        added += control.sweep()
        done = fleet.client.store.views.counts().get(ExperimentState.DONE, 0)
    assert done < MANY, "all were done: nothing was shown"
    assert added < MANY // 100


def test_a_purged_queue_is_filled_again(fleet: Fleet) -> None:
    fleet.sweep(50)
    control = duties(fleet)
    control.dispatch()
    settled(fleet, 50)
    with Connection(fleet.vhost_url) as connection:
        _channel(connection).queue_purge("envsetup")
    assert control.sweep() == 0, "one look is not enough"
    assert control.sweep() == 50
    settled(fleet, 50)
    assert control.sweep() == control.sweep() == 0


def test_a_deleted_queue_is_declared_and_filled_at_once(fleet: Fleet) -> None:
    fleet.sweep(50)
    control = duties(fleet)
    control.dispatch()
    settled(fleet, 50)
    with Connection(fleet.vhost_url) as connection:
        _channel(connection).queue_delete("envsetup")
    assert control.sweep() == 50
    settled(fleet, 50)


def test_some_messages_lost_from_the_middle(fleet: Fleet) -> None:
    """The count says how many are gone, not which; in the end every experiment has finished."""
    sweep = fleet.sweep(60, seconds=0)
    control = duties(fleet)
    control.dispatch()
    settled(fleet, 60)
    with Connection(fleet.vhost_url) as connection:
        channel = _channel(connection)
        kept = [channel.basic_get("envsetup", no_ack=False) for _ in range(40)]
        for message in kept[10:20]:
            channel.basic_ack(message.delivery_tag)  # lost for good
    fleet.layout = Layout()
    fleet.start_worker(0)
    fleet.start_control(0)
    wait_for(lambda: FINAL.issuperset(sweep.status), 90, "all of them")
    fleet.check_once(60)


def test_a_crash_between_commit_and_publish_loses_nothing(fleet: Fleet) -> None:
    """The row says sent, the broker has nothing: as after a kill right after the commit."""
    client = fleet.client
    client._send = lambda step: None  # type: ignore[method-assign]  # the process died here
    sweep = [client.schedule(_one(fleet, n)) for n in range(5)]
    assert depths(client.app, ["envsetup"])["envsetup"] == 0
    fleet.layout = Layout()
    fleet.start_worker(0)
    fleet.start_control(0)
    for handle in sweep:
        handle.wait(60)
    fleet.check_once(5)


def test_a_lost_connection_to_the_broker_only_delays(fleet: Fleet) -> None:
    """Accepted while no queue is there: control declares the queues and sends."""
    with Connection(fleet.vhost_url) as connection:
        _channel(connection).queue_delete("envsetup")
    handle = fleet.client.schedule(_one(fleet, 0))
    declare(fleet.client.app)
    fleet.layout = Layout()
    fleet.start_worker(0)
    fleet.start_control(0)
    handle.wait(60)
    fleet.check_once(1)


def _channel(connection: Connection) -> Any:
    """The AMQP channel, which can do more than the transports have in common."""
    return connection.default_channel


def _one(fleet: Fleet, n: int) -> Experiment:
    return Experiment(name="one", site="local", commands=[f"echo {n} >> {fleet.ledger}"])
