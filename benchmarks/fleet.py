"""What a thousand workers cost control: CPU at rest, and when 300 of them die within a minute.

The workers are rows and heartbeats of this program; the looks at them, the rows, the incidents and
the pacing of messages are those of a control process, in simulated time.
"""

from __future__ import annotations

import logging
import tempfile
import time
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import rich
from rich.table import Table
from sqlalchemy import text

from services.postgresql import PrivatePostgreSQL
from wlm_tasks.config import WatchSettings
from wlm_tasks.control.fleet import Fleet
from wlm_tasks.control.sights import Evidence
from wlm_tasks.control.witnesses import Heard
from wlm_tasks.model.notices import NoticeKind, Severity
from wlm_tasks.notify.pacing import Pace, Waiting, plan
from wlm_tasks.state.roster import Registration
from wlm_tasks.state.store import Store

SETTINGS: Final = WatchSettings()
LOOK_EVERY_S: Final = 2.0
PID: Final = 4711


@dataclass(frozen=True)
class Measured:
    """CPU of control, in seconds, and how people were told."""

    database: str
    at_rest: float  #: of a minute in which nothing happens
    storm: float  #: of all that follows when some die within a minute
    down: int
    messages: int


class Crowd:
    """Workers that only exist in the rows and in what is heard of them."""

    def __init__(self, store: Store, count: int) -> None:
        self.store = store
        self.names = [f"worker{number}@node{number // 8}" for number in range(count)]
        self.fleet = Fleet(store, SETTINGS, ["smtp"], poison_after=3)
        self.now = 1000.0
        self.silent_since: dict[str, float] = {}
        attributes = {"slots": 8, "pool": "prefork", "heartbeats": True, "zone": "a"}
        for name in self.names:
            store.roster.register(
                Registration(
                    name=name,
                    incarnation="a1",
                    host=name.partition("@")[2],
                    pid=PID,
                    queues=("envsetup", "staging"),
                    attributes=attributes,
                )
            )
        self._sql("UPDATE workers SET registered_at = registered_at - 1000")

    def pass_s(self, seconds: float) -> None:
        """Let time pass: those that live sign their rows, which is not control's work."""
        self.now += seconds
        self._sql("UPDATE workers SET since = since - :s, heard_at = heard_at - :s", s=seconds)
        alive = [name for name in self.names if name not in self.silent_since]
        now = self.store.coordination.clock()
        with self.store.database.write() as connection:
            connection.execute(
                text("UPDATE workers SET heard_at = :now WHERE name = :name"),
                [{"now": now, "name": name} for name in alive],
            )

    def look(self) -> float:
        """Look once as control does; returns the CPU it took, in seconds."""
        heard = {
            name: Heard(self.silent_since.get(name, self.now), PID, goodbye=False)
            for name in self.names
        }
        evidence = Evidence(
            now=self.now,
            patience_s=SETTINGS.patience_s,
            database_since=0.0,
            heartbeats_since=0.0,
            heard=heard,
        )
        begun = time.process_time()
        self.fleet.look(evidence)
        return time.process_time() - begun

    def _sql(self, statement: str, **values: float) -> None:
        with self.store.database.write() as connection:
            connection.execute(text(statement), values)


def measure(database: str, url: str, workers: int, dying: int) -> Measured:
    """Put a crowd through a minute of rest and a minute of deaths."""
    store = Store(url)
    store.database.upgrade()
    crowd = Crowd(store, workers)
    crowd.look()  # which writes down what the witnesses say
    at_rest = _minute_at_rest(crowd)
    storm, times = _storm(crowd, dying)
    down = sum(view.state == "DOWN" for view in store.roster.views())
    store.close()
    return Measured(database, at_rest, storm, down, _messages(times))


def _minute_at_rest(crowd: Crowd) -> float:
    spent = 0.0
    for _ in range(int(60 / LOOK_EVERY_S)):
        crowd.pass_s(LOOK_EVERY_S)
        spent += crowd.look()
    return spent


def _storm(crowd: Crowd, dying: int) -> tuple[float, list[float]]:
    """Let workers die, evenly over a minute; returns the CPU of it, and when each was told."""
    spent, told = 0.0, []
    begun, known = crowd.now, 0
    last = begun + 60 + SETTINGS.patience_s + SETTINGS.grace_s + 10
    while crowd.now < last:
        crowd.pass_s(LOOK_EVERY_S)
        dead = min(dying, int((crowd.now - begun) * dying / 60))
        for name in crowd.names[:dead]:
            crowd.silent_since.setdefault(name, crowd.now)
        spent += crowd.look()
        waiting = len(crowd.store.deliveries.waiting("smtp", 10_000))
        told += [crowd.now] * (waiting - known)
        known = waiting
    return spent, told


def _messages(times: list[float]) -> int:
    """How many messages the notices make that came at these times."""
    waiting = [
        Waiting(key=str(number), kind=NoticeKind.WORKER_DOWN, severity=Severity.CRITICAL, since=at)
        for number, at in enumerate(times)
    ]
    sent: set[str] = set()
    messages = 0
    now = min(times, default=0.0)
    while len(sent) < len(waiting):
        left = [one for one in waiting if one.key not in sent and one.since <= now]
        for batch in plan(left, now, Pace()).batches:
            messages += 1
            sent.update(batch)
        now += 1.0
    return messages


def table(measured: list[Measured]) -> Table:
    """One line a database."""
    columns = ("database", "CPU of a minute at rest, s", "of the storm, s", "down", "messages")
    made = Table(*columns)
    for one in measured:
        made.add_row(
            one.database, f"{one.at_rest:.2f}", f"{one.storm:.1f}", str(one.down), str(one.messages)
        )
    return made


def add_options(parser: ArgumentParser) -> None:
    """Add what can be chosen."""
    parser.add_argument("--workers", type=int, default=1000, help="how many there are")
    parser.add_argument("--dying", type=int, default=300, help="how many die within a minute")


def run(given: Namespace) -> None:
    """Measure on both databases and print the table."""
    logging.getLogger("wlm_tasks").setLevel(logging.ERROR)  # each death has a line
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        place.chmod(0o711)
        found = [measure("SQLite", f"sqlite:///{place / 'wlm.db'}", given.workers, given.dying)]
        with PrivatePostgreSQL(place / "postgresql") as server:
            url = server.new_database()
            found.append(measure("PostgreSQL", url, given.workers, given.dying))
    rich.print(table(found))
