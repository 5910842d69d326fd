"""Promise 5: one mail for each disappearance, one for each return, and none for anything else.

Six workers, two control processes, PostgreSQL, RabbitMQ and a mail server, each on a host of its
own with a cable that can be pulled. In the end the mails that must have come are compared with
those that have.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from campaign.fleet_world import QUICK, USUAL, WORKERS, FleetWorld

from services import require
from services.network import PrivateNetwork
from services.postgresql import PrivatePostgreSQL
from services.processes import wait_for
from services.rabbitmq import PrivateRabbitMQ
from services.serf import PrivateSerf
from wlm_tasks.model.workers import WorkerState

DOWN, UP, LEFT = WorkerState.DOWN, WorkerState.UP, WorkerState.LEFT
#: what the subject of a mail says of a worker, by what happened to it
IS_DOWN, IS_BACK, RESTARTED = "is down", "is back", "crashed and restarted"


@dataclass
class Record:
    """What should have been told, and how long things took."""

    world: FleetWorld
    expected: Counter[str] = field(default_factory=Counter)
    killed: dict[str, float] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def expect(self, *words: str) -> None:
        self.expected.update(words)

    def lost(self, name: str) -> None:
        """A worker disappears, and comes back later."""
        self.expect(f"{name} {IS_DOWN}", f"{name} {IS_BACK}")

    def note(self, fault: str, result: str) -> None:
        self.lines.append(f"{fault:<58} {result}")


@pytest.fixture
def world(session_dir: Path, long_campaign: bool) -> Iterator[FleetWorld]:
    needed = (PrivateNetwork, PrivateRabbitMQ, PrivatePostgreSQL, PrivateSerf)
    for service in needed:
        require(
            service.available(), f"{service.__name__} cannot run here: run scripts/setup, as root"
        )
    directory = session_dir / "fleet"
    directory.mkdir()
    directory.chmod(0o711)
    with FleetWorld(directory, pace=USUAL if long_campaign else QUICK) as made:
        yield made


@pytest.mark.campaign
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_mails_of_a_fleet(world: FleetWorld) -> None:
    record = Record(world)
    for fault in FAULTS:
        begun = time.monotonic()
        fault(world, record)
        name = (fault.__doc__ or "").strip().splitlines()[0]
        record.note(name, f"{time.monotonic() - begun:.0f} s")
    world.wait_until_settled()
    _compare(world, record)


def kills(world: FleetWorld, record: Record) -> None:
    """kill -9 of a worker and its agent; of an agent alone; restart at once; SIGTERM at work"""
    handle = world.busy("w1")
    at = world.kill("w1")
    record.killed["w1"] = at
    record.lost("w1")
    elsewhere_s = world.taken_over_s(handle, at)
    record.note("  its work runs elsewhere after", f"{elsewhere_s:.2f} s")
    assert elsewhere_s < 1.0
    world.kill_agent("w2")
    world.kill("w3")
    world.start_worker("w3")
    record.expect(f"w3 {RESTARTED}")
    world.busy("w4")
    world.processes["w4"].send(signal.SIGTERM)
    world.wait_until("w1", DOWN)
    assert world.knows(handle)
    world.processes["w4"].wait(60)
    world.start_worker("w1")
    world.start_worker("w4")
    world.wait_until_settled()


def freeze_and_cable(world: FleetWorld, record: Record) -> None:
    """a worker frozen, another one's cable pulled, for longer than the grace; both come back"""
    world.freeze("w5")
    world.network.pull("w6")
    record.lost("w5")
    record.lost("w6")
    world.wait_until("w5", DOWN)
    world.wait_until("w6", DOWN)
    world.thaw("w5")
    world.network.plug("w6")
    world.wait_until_settled()


def control_is_cut_off(world: FleetWorld, record: Record) -> None:
    """the cable of the control process that decides pulled, while a worker is killed"""
    watching = world.watching()
    world.network.pull(watching)
    world.kill("w2")
    record.lost("w2")
    world.wait_until("w2", DOWN)
    world.start_worker("w2")
    world.network.plug(watching)
    world.wait_until_settled()


def broker(world: FleetWorld, record: Record) -> None:
    """the broker restarted, then its cable pulled for long: one mail of that, one of its end"""
    world.broker.restart()
    world.wait_until_all_up()
    world.network.pull("mq")
    record.expect("broker", "broker")
    incidents = world.client.store.incidents
    wait_for(lambda: any(i.kind == "BROKER" for i in incidents.now_open()), 120, "it is told")
    world.network.plug("mq")
    world.wait_until_settled()
    world.wait_until_all_up()


def planned(world: FleetWorld, record: Record) -> None:
    """all workers restarted one by one, one ended for good, the database restarted"""
    for name in WORKERS:
        world.processes[name].stop(30)
        world.start_worker(name)
    world.processes["w6"].stop(30)
    world.database.restart()
    wait_for(lambda: world.up() == set(WORKERS[:-1]), 60, "five workers are up")
    world.start_worker("w6")
    world.wait_until("w6", UP)


def mail_is_down(world: FleetWorld, record: Record) -> None:
    """no mail server while a worker is killed and comes back; another moves to a new address"""
    world.mail.stop()
    world.kill("w1")
    world.kill("w2")
    record.lost("w1")
    record.lost("w2")
    world.wait_until("w1", DOWN)
    world.wait_until("w2", DOWN)
    world.start_worker("w1")
    world.start_worker("w2", host="spare")
    world.wait_until_settled()
    world.mail.start()


def killed_while_sending(world: FleetWorld, record: Record) -> None:
    """the control process that sends killed -9 while the mail server takes its time"""
    world.mail.fail(delay_s={"END": 3.0})
    before = len(world.mails())
    world.kill("w3")
    record.lost("w3")
    sending = _sender(world)
    world.kill(sending)
    world.mail.fail()
    world.start_control(sending)
    world.wait_until("w3", DOWN)
    world.start_worker("w3")
    world.wait_until_settled()
    wait_for(lambda: len(world.mails()) > before, 60, "the mail has come")


def _sender(world: FleetWorld) -> str:
    """Who sends, as soon as somebody has begun."""

    def begun() -> bool:
        views = world.client.store.deliveries.views(50)
        return any(view.tries and not view.sent_at for view in views)

    wait_for(begun, 90, "somebody sends")
    holder = world.client.store.coordination.holders()["mail:smtp"]
    pid = int(holder.split(":")[1])
    return next(name for name in ("c1", "c2") if world.processes[name].pid == pid)


FAULTS: list[Callable[[FleetWorld, Record], None]] = [
    kills,
    freeze_and_cable,
    control_is_cut_off,
    broker,
    planned,
    mail_is_down,
    killed_while_sending,
]


def _compare(world: FleetWorld, record: Record) -> None:
    """Compare what was told with what should have been, once all of it has gone out."""
    deliveries = world.client.store.deliveries
    wait_for(lambda: not deliveries.any_open("smtp"), 150, "everything is sent")
    ids = Counter(mail.id for mail in world.mails())
    first = {mail.id: mail for mail in reversed(world.mails())}
    told: Counter[str] = Counter()
    for mail in first.values():
        told.update(_matters(mail.subject, mail.text))
    copies = sum(ids.values()) - len(ids)
    record.note("mails, and copies with the id of another", f"{len(ids)}, {copies}")
    print("\n".join(record.lines))  # noqa: T201 - the campaign's result
    assert told == record.expected, (
        f"{told}\n{record.expected}\n{[m.subject for m in first.values()]}"
    )


def _matters(subject: str, text: str) -> list[str]:
    """What a mail tells of, a digest of several matters in its lines."""
    lines = [subject] if "worker " in subject or "broker" in subject.lower() else text.splitlines()
    found = []
    for line in lines:
        if "broker" in line.lower():
            found.append("broker")
        for name in WORKERS:
            said = [words for words in (IS_DOWN, IS_BACK, RESTARTED) if words in line]
            found += [f"{name} {words}" for words in said if f"{name}@net" in line]
    return found
