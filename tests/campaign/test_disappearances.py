"""Promise 5: one mail per disappearance, one on return, and none when nothing is wrong.

Six workers, two control processes, the broker, PostgreSQL and the mail server each have a host of
their own. Faults come one after another, or several at once where they do not disturb each other;
what the mail server received is compared with what should have been told, by the mails' own words.
Work goes on meanwhile, and each payload must run once.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from signal import SIGKILL, SIGTERM

import pytest
from campaign.hosts_world import WORKERS, Told, World, name_of, told_by

from services import require, require_service
from services.network import PrivateNetwork
from services.postgresql import PrivatePostgreSQL
from services.processes import wait_for
from services.rabbitmq import PrivateRabbitMQ
from services.serf import PrivateSerf
from services.smtpserver import Mail
from wlm_tasks.errors import ServiceError
from wlm_tasks.handles import ExperimentHandle
from wlm_tasks.model.notices import NoticeKind as Kind
from wlm_tasks.model.states import FINAL
from wlm_tasks.model.workers import WorkerState
from wlm_tasks.state.incidents import BROKER


@dataclass
class Struck:
    """One fault, what should be told of it, and what was."""

    fault: str
    expected: list[Told] = field(default_factory=list)
    in_hand: ExperimentHandle | None = None  #: what a worker had when it was struck
    worker: str = ""
    at: float = field(default_factory=time.time)
    elsewhere_s: float | None = None
    received: list[tuple[Told, Mail]] = field(default_factory=list)

    @property
    def mail_s(self) -> float | None:
        """Seconds from the fault to the first mail of it."""
        return min((mail.at - self.at for _told, mail in self.received), default=None)


class Campaign:
    """Strikes, and keeps the account."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.struck: list[Struck] = []
        self.downs: Counter[int] = Counter()

    # -- means -----------------------------------------------------------------------------

    def strike(self, fault: str, worker: int | None = None, *kinds: Kind) -> Struck:
        """Write down that a fault comes now, and what should be told of it."""
        name = "" if worker is None else name_of(worker)
        one = Struck(fault, [(kind, name) for kind in kinds], worker=name)
        if worker is not None:
            one.in_hand = self.held_by(worker)
            if Kind.WORKER_DOWN in kinds:
                self.downs[worker] += 1
        one.at = time.time()
        self.struck.append(one)
        print(f"{time.strftime('%T')} {fault} {name}", flush=True)  # noqa: T201
        return one

    def held_by(self, worker: int) -> ExperimentHandle | None:
        """A slow experiment whose staging is on this worker."""
        with self.world.client.store.database.read() as connection:
            held = connection.exec_driver_sql(
                "SELECT experiment_id FROM steps WHERE seq = 1 AND state = 'RUNNING'"
                " AND worker = %s ORDER BY experiment_id DESC",
                (name_of(worker),),
            ).scalars()
            ids = set(held)
        newest = reversed(self.world.handed_in)
        return next((one for one in newest if one.id in ids), None)

    def busy(self, count: int) -> list[int]:
        """Hand in slow work; so many workers that have some, those struck least first."""
        for _ in range(count + 2):
            self.world.hand_in(slow=True)

        def found() -> list[int]:
            missed = {one.subject for one in self.world.client.store.incidents.now_open()}
            able = sorted(range(WORKERS), key=lambda number: self.downs[number])
            able = [number for number in able if name_of(number) not in missed]
            holders = [number for number in able if self.held_by(number)]
            return holders[:count] if len(holders) >= count else []

        return wait_for(found, 60, f"{count} workers with work in hand", interval=0.2)

    def moved(self, one: Struck, timeout: float = 60.0) -> None:
        """Wait until another worker has taken what was in hand, and note how long that took."""
        held = one.in_hand
        assert held is not None, f"{one.fault}: {one.worker} had nothing in hand"

        def elsewhere() -> float:
            holder = self.world.holder_of(held)
            return holder[1] if holder and holder[0] != one.worker else 0.0

        one.elsewhere_s = wait_for(elsewhere, timeout, f"{one.fault}: work elsewhere") - one.at

    def down_then(self, struck: Sequence[tuple[Struck, int, Callable[[], object]]]) -> None:
        """Wait until each is DOWN and its work elsewhere; then mend each."""
        for one, number, mend in struck:
            self.world.wait_for_state(number, WorkerState.DOWN)
            if one.elsewhere_s is None:
                self.moved(one)
            mend()
        for _one, number, _mend in struck:
            self.world.wait_for_up([number])

    # -- faults ----------------------------------------------------------------------------

    def kills(self) -> None:
        """A worker, with its agent by itself; another one's agent alone."""
        world = self.world
        a, b = self.busy(2)
        agent = world.agent_of(f"w{b}")
        one = self.strike("kill -9 of a worker", a, Kind.WORKER_DOWN, Kind.WORKER_BACK)
        world.processes[f"w{a}"].send(SIGKILL)
        self.strike("kill -9 of an agent", b)
        kill(agent)
        self.down_then([(one, a, partial(world.start_worker, a))])

    def both_and_cable(self) -> None:
        """A worker and its agent at once; the cable of another."""
        world = self.world
        a, b = self.busy(2)
        agent = world.agent_of(f"w{a}")
        kinds = (Kind.WORKER_DOWN, Kind.WORKER_BACK)
        one = self.strike("kill -9 of worker and agent", a, *kinds)
        kill(agent)
        world.processes[f"w{a}"].kill_group()
        self.moved(one)  # else the broker may give it to the one that is cut off next
        two = self.strike("cable pulled from a worker", b, *kinds)
        host = world.hosts[f"h{b}"]
        world.network.pull(host)
        self.down_then(
            [
                (one, a, partial(world.start_worker, a)),
                (two, b, partial(world.network.plug, host)),
            ]
        )

    def freeze_and_mail_away(self) -> None:
        """A frozen worker; another one killed and started elsewhere; no mail server meanwhile."""
        world = self.world
        a, b = self.busy(2)
        kinds = (Kind.WORKER_DOWN, Kind.WORKER_BACK)
        world.smtp.stop()
        two = self.strike("same name from a new address, no mail server", b, *kinds)
        world.processes[f"w{b}"].kill_group()
        self.moved(two)
        one = self.strike("freeze of a worker, no mail server", a, *kinds)
        world.freeze(f"w{a}")
        self.down_then(
            [
                (two, b, partial(world.start_worker, b, on="spare")),
                (one, a, partial(world.thaw, f"w{a}")),
            ]
        )
        wait_for(lambda: not self.open_incidents(), 180, "both are back", interval=0.5)
        world.smtp.start()

    def planned(self, *, for_long: bool) -> None:
        """SIGTERM with work in hand, and a restart at once; control is struck meanwhile."""
        world = self.world
        a, b = self.busy(2)
        self.strike("SIGTERM with a long task", a)
        world.processes[f"w{a}"].send(SIGTERM)
        self.strike("restart within half a second", b, Kind.WORKER_RESTARTED)
        world.processes[f"w{b}"].kill_group()
        world.start_worker(b)
        self.control(for_long=for_long)
        world.processes[f"w{a}"].wait(120)
        self.strike("the pool of a worker shrinks", a)
        world.start_worker(a, options=["--autoscale=4,2"])
        world.wait_for_up([a, b])
        world.client.app.control.autoscale(1, 1, destination=[name_of(a)])

    def control(self, *, for_long: bool) -> None:
        """The deciding one frozen, then cut off; PostgreSQL restarted."""
        world = self.world
        first = self.holder("watch")
        self.strike("the deciding control frozen")
        world.freeze(f"control{first}")
        self.other_decides(first)
        time.sleep(world.patience_s)  # by its own clock it has heard of nobody for longer
        world.thaw(f"control{first}")

        first = self.holder("watch")
        one = self.strike("cable pulled from the deciding control")
        self.pull(f"control{first}")
        self.other_decides(first)
        if for_long:
            # to it the database is out of reach, and it says so as soon as it can
            one.fault += " for long"
            one.expected = [(Kind.DATABASE_DOWN, "")]
            spool = world.directory / f"data-control{first}/notices"
            wait_for(lambda: any(spool.glob("*.json")), 120, "its notice", interval=0.2)
        self.plug(f"control{first}")

        self.strike("PostgreSQL restarted")
        world.database.restart()
        wait_for(self.database_answers, 30, "PostgreSQL answers us")

    def other_decides(self, number: int) -> None:
        """Wait until another control process decides."""
        wait_for(lambda: self.holder("watch") != number, 60, "another one decides", interval=0.2)

    def database_answers(self) -> bool:
        """Whether it does, on a connection of ours; those from before are broken."""
        with suppress(ServiceError):
            return self.open_incidents() >= 0
        return False

    def pull(self, name: str) -> None:
        """Pull a host's cable."""
        self.world.network.pull(self.world.hosts[name])

    def plug(self, name: str) -> None:
        """Plug it in."""
        self.world.network.plug(self.world.hosts[name])

    def mid_sending(self) -> None:
        """The control that sends killed: before the mail server has the mail, and after."""
        world = self.world
        for verb, when in (("DATA", "before"), ("END", "after")):
            [a] = self.busy(1)
            world.smtp.fail(delay_s={verb: 8.0})
            fault = f"the sending control killed {when} the mail server has the mail"
            one = self.strike(fault, a, Kind.WORKER_DOWN, Kind.WORKER_BACK)
            world.processes[f"w{a}"].kill_group()
            under_way = partial(self.under_way, one, has_it=verb == "END")
            wait_for(under_way, 90, "a mail under way", interval=0.05)
            time.sleep(1.0)  # of the 8 that the server takes for its answer
            sender = self.holder("mail:smtp")
            world.processes[f"control{sender}"].kill_group()
            world.smtp.fail()
            world.start_control(sender)
            self.down_then([(one, a, partial(world.start_worker, a))])

    def under_way(self, one: Struck, *, has_it: bool) -> bool:
        """Whether the mail of a worker that is down is being sent, or the server has it."""
        if has_it:
            mails = [mail for mail in self.world.smtp.received() if mail.at > one.at]
            return any((Kind.WORKER_DOWN, one.worker) in told_by(mail) for mail in mails)
        with self.world.client.store.database.read() as connection:
            sending = connection.exec_driver_sql(
                "SELECT count(*) FROM deliveries JOIN notices ON notices.id = notice_id"
                " WHERE sent_at IS NULL AND tries > 0 AND kind = 'WORKER_DOWN' AND subject = %s",
                (one.worker,),
            ).scalar()
        return bool(sending)

    def holder(self, lease: str) -> int:
        """The control process that holds a lease."""

        def found() -> str:
            with self.world.client.store.database.read() as connection:
                holder = connection.exec_driver_sql(
                    "SELECT holder FROM leases WHERE name = %s", (lease,)
                ).scalar()
            return str(holder or "")

        holder = wait_for(found, 20, f"a control process with the lease {lease}")
        return int(holder.partition(":")[0].removeprefix("control"))

    def brokers(self) -> None:
        """Restarted in less than the grace; then its cable pulled for longer."""
        world = self.world
        self.strike("the broker restarted")
        world.broker.ctl("stop_app")
        world.broker.ctl("start_app")
        time.sleep(world.patience_s)  # all have reconnected, or it is told that they have not
        one = self.strike("cable pulled from the broker")
        one.expected = [(Kind.BROKER_DOWN, ""), (Kind.BROKER_BACK, "")]
        self.pull("mq")
        wait_for(partial(self.is_away, BROKER), 120, "the broker's incident", interval=0.2)
        self.plug("mq")
        wait_for(lambda: not self.is_away(BROKER), 120, "the end of it", interval=0.2)

    def is_away(self, kind: str) -> bool:
        """Whether an incident of a kind is open."""
        return any(one.kind == kind for one in self.world.client.store.incidents.now_open())

    def database(self) -> None:
        """Its cable pulled until every control process has told that it is out of reach."""
        one = self.strike("cable pulled from PostgreSQL")
        one.expected = [(Kind.DATABASE_DOWN, "")] * 2
        self.pull("db")

        def told() -> bool:
            mails = [mail for mail in self.world.smtp.received() if mail.at > one.at]
            return sum(told_by(mail) == one.expected[:1] for mail in mails) == len(one.expected)

        wait_for(told, 120, "it is told that PostgreSQL is away", interval=0.2)
        self.plug("db")
        wait_for(self.database_answers, 60, "PostgreSQL answers us")

    def rolling(self) -> None:
        """All workers restarted, two at a time; then one that is to go for good."""
        world = self.world
        # of one that is stopped on purpose it is not told that it is back
        wait_for(lambda: not self.open_incidents(), 180, "all are back", interval=0.5)
        self.strike("rolling restart of all workers")
        for pair in zip(range(0, WORKERS, 2), range(1, WORKERS, 2), strict=True):
            for number in pair:
                world.processes[f"w{number}"].send(SIGTERM)
            for number in pair:
                world.processes[f"w{number}"].wait(120)
                world.start_worker(number)
            world.wait_for_up(pair)
        self.strike("one worker fewer", WORKERS - 1)
        world.processes[f"w{WORKERS - 1}"].send(SIGTERM)
        world.processes[f"w{WORKERS - 1}"].wait(120)

    def open_incidents(self) -> int:
        """How many there are."""
        return len(self.world.client.store.incidents.now_open())

    # -- the account -----------------------------------------------------------------------

    def settle(self) -> None:
        """Wait until all work is done and nothing is left to tell."""
        world = self.world
        store = world.client.store

        def done() -> bool:
            return all(one.status in FINAL for one in world.handed_in)

        def quiet() -> bool:
            return not self.open_incidents() and not store.deliveries.any_open("smtp")

        wait_for(done, 240, "the end of the work", interval=0.5)
        wait_for(quiet, 900, "nothing left to tell", interval=0.5)

    def account(self) -> tuple[list[Told], list[Told], int]:
        """Match mails to faults: what is missing, what was told for nothing, mails sent twice."""
        mails = sorted(self.world.smtp.received(), key=lambda mail: mail.at)
        first = list({mail.id: mail for mail in reversed(mails)}.values())
        first.sort(key=lambda mail: mail.at)
        left = [(told, mail) for mail in first for told in told_by(mail)]
        missing: list[Told] = []
        for one in self.struck:
            for told in one.expected:
                match = next((it for it in left if it[0] == told and it[1].at >= one.at), None)
                if match is None:
                    missing.append(told)
                else:
                    left.remove(match)
                    one.received.append(match)
        return missing, [told for told, _mail in left], len(mails) - len(first)

    def table(self) -> str:
        """The result, as it stands in the documentation."""
        lines = ["| fault | should be told | received | to the mail | to the work elsewhere |"]
        lines.append("|---|---|---|---|---|")
        for one in self.struck:
            expected = ", ".join(kind for kind, _who in one.expected) or "nothing"
            got = f"{len(one.received)} of {len(one.expected)}" if one.expected else "nothing"
            lines.append(
                f"| {one.fault} | {expected} | {got} | {seconds(one.mail_s)} |"
                f" {seconds(one.elsewhere_s, 2)} |"
            )
        return "\n".join(lines)


def seconds(number: float | None, digits: int = 0) -> str:
    """A number of the table."""
    return "" if number is None else f"{number:.{digits}f} s"


def kill(pid: int) -> None:
    """KILL a process of which nothing is known but its id."""
    with suppress(ProcessLookupError):
        os.kill(pid, SIGKILL)


@pytest.mark.campaign
@pytest.mark.timeout(900)
def test_faults_over_hosts(session_dir: Path, long_campaign: bool) -> None:
    """0 missing, 0 false alarms, 0 told twice; each payload once."""
    require(PrivateNetwork.available(), "network namespaces need root and iproute2")
    require_service("Serf", PrivateSerf.available())
    require_service("RabbitMQ", PrivateRabbitMQ.available())
    require_service("PostgreSQL", PrivatePostgreSQL.available())
    for number in range(3 if long_campaign else 1):
        directory = session_dir / f"hosts{number}"
        directory.mkdir()
        with World(directory, tight=not long_campaign) as world:
            strike_all(Campaign(world), for_long=long_campaign)


def strike_all(campaign: Campaign, *, for_long: bool) -> None:
    """One round."""
    world, begun = campaign.world, time.monotonic()
    try:
        campaign.kills()
        campaign.both_and_cable()
        campaign.freeze_and_mail_away()
        campaign.planned(for_long=for_long)
        campaign.mid_sending()
        campaign.brokers()
        if for_long:
            campaign.database()
        campaign.rolling()
        campaign.settle()
    except (TimeoutError, RuntimeError) as error:
        raise AssertionError(f"{error}\n{campaign.table()}\n{world.logs()}") from error
    missing, false, twice = campaign.account()
    print(  # noqa: T201 - the campaign's result
        f"{campaign.table()}\n{len(missing)} missing, {len(false)} false alarms, {twice} mails "
        f"received twice, {len(world.handed_in)} experiments, {time.monotonic() - begun:.0f} s"
    )
    assert (missing, false) == ([], []), world.logs()
    assert world.payloads() == Counter(map(str, range(len(world.handed_in))))
    for one in campaign.struck:
        for (kind, _who), mail in one.received:
            if kind is Kind.WORKER_DOWN and one.in_hand is not None:
                assert f"payload-{world.handed_in.index(one.in_hand)}" in mail.text
