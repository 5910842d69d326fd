"""No query of control and none of a claim looks at the history, however long that is."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event
from state.world import SETUP, STAGE_IN, SUBMIT, World, experiment, holder, new

from wlm_tasks.celery import WlmCelery
from wlm_tasks.control import outbox
from wlm_tasks.control.duties import Duties
from wlm_tasks.model.states import JobRecord, StepState
from wlm_tasks.state.database import Database
from wlm_tasks.state.intake import NewSweep, new_id
from wlm_tasks.state.politeness import SiteLimits

SMALL, LARGE = 150, 1500
#: Per-tick work; what each asks may depend on what is open, never on what has ended.
TICK = [
    "dispatch",
    "wake",
    "expire",
    "release",
    "poll",
    "probe",
    "cancel",
    "sweep",
    "clean",
    "publish",
]


class Watched:
    """Everything a database is asked, and what it costs SQLite."""

    def __init__(self) -> None:
        self.statements: list[str] = []
        self.steps = 0  #: instructions of SQLite's machine, in hundreds

    def connected(self, connection: sqlite3.Connection, _record: object) -> None:
        connection.set_trace_callback(self._asked)
        connection.set_progress_handler(self._worked, 100)

    def _asked(self, statement: str) -> None:
        if statement.startswith(("SELECT", "UPDATE", "INSERT", "DELETE")):
            self.statements.append(statement)

    def _worked(self) -> int:
        self.steps += 1
        return 0

    @contextmanager
    def only(self) -> Iterator[None]:
        """Forget what was before the block."""
        self.statements.clear()
        self.steps = 0
        yield


@pytest.fixture
def watched(app: WlmCelery) -> Watched:
    made = Watched()
    database: Database = app.runtime.store.database
    for engine in database.engines:
        event.listen(engine, "connect", made.connected)
    return made


def _history(world: World, size: int) -> None:
    """Experiments that ended, well or not, in sweeps of all kinds."""
    for number, state in enumerate(("DONE", "FAILED", "CANCELLED")):
        members = [new() for _ in range(size // 3)]
        world.store.intake.add_sweep(
            NewSweep(
                id=new_id("swp"), name="old", fingerprint="f", size=len(members),
                max_active=9999, stop_on_failure=bool(number),
            ),
            members,
        )  # fmt: skip
        world.sql("UPDATE steps SET state = 'DONE', message_id = 'm' WHERE state = 'READY'")
        world.sql("UPDATE steps SET state = 'CANCELLED' WHERE state = 'WAITING'")
        world.sql("UPDATE experiments SET state = :s WHERE state = 'QUEUED'", s=state)
    world.sql("UPDATE events SET published = 1")
    world.sql(
        "INSERT INTO jobs (token, experiment_id, number, site, state, workdir, created_at)"
        " SELECT 'wlm-' || id, id, 1, 'local', 'SUCCEEDED', '/w', 0 FROM experiments"
    )


def _open(world: World) -> None:
    """A little of everything that has not ended."""
    world.add(sent=False)
    old = world.add(sent=True)
    world.past("sent_at", 600, old)
    for state in (StepState.RUNNING, StepState.BACKOFF, StepState.PAUSED, StepState.HELD):
        world.into(state)
    for _ in range(2):
        one, _token = world.submitted(site="local")
        world.sql("UPDATE jobs SET site = 'local' WHERE experiment_id = :e", e=one)
    world.store.intake.cancel(one)
    claim = world.running(SUBMIT, site="local")
    world.store.jobs.intend(claim, site="local", workdir="/w", limits=SiteLimits(max_running=0))
    stopping = [new(experiment(site="local")) for _ in range(3)]
    world.store.intake.add_sweep(
        NewSweep(
            id=new_id("swp"), name="open", fingerprint="f", size=3, max_active=2,
            stop_on_failure=True,
        ),
        stopping,
    )  # fmt: skip
    world.store.claims.fail(world.claim(stopping[0].id), "broken")
    world.sql("UPDATE steps SET lease_until = 0, due_at = 0")


def _tick(app: WlmCelery) -> dict[str, Callable[[], Any]]:
    duties = Duties(app)

    def sweep() -> int:
        return duties.sweep() + duties.sweep()  # the second confirms the first's suspects

    asked: dict[str, Callable[[], Any]] = {
        name: getattr(duties, name) for name in TICK if name not in ("sweep", "publish")
    }
    return {**asked, "sweep": sweep, "publish": lambda: outbox.publish(app)}


def _claiming(world: World) -> dict[str, Callable[[], Any]]:
    """What a worker asks for each message."""
    low, urgent = world.add(priority="low"), world.add(priority="urgent")
    claim = world.claim(urgent, message="m2")
    store = world.store
    return {
        "claim": lambda: store.claims.claim(low, SETUP, holder()),
        "carry on": lambda: store.claims.finish(claim, carry_on=holder("m2")),
        "take over": lambda: store.claims.claim(low, SETUP, holder("m2", redelivered=True)),
        "outranked": lambda: (
            world.add(priority="urgent"),
            store.claims.claim(world.add(priority="low"), SETUP, holder("m3")),
        ),
        "leave": lambda: store.claims.claim(urgent, STAGE_IN, holder("m9")),
        "intend": lambda: store.jobs.intend(
            world.running(SUBMIT, priority="urgent"),
            site="local",
            workdir="/w",
            limits=SiteLimits(max_running=99),
        ),
        "report": lambda: world.report(
            world.submitted(priority="urgent")[1], JobRecord.FAILED, max_jobs=2
        ),
    }


def _plans(path: str, statements: list[str]) -> list[tuple[str, str]]:
    """Each line of each statement's plan, with the statement."""
    connection = sqlite3.connect(path)
    try:
        return [
            (str(row[3]), statement)
            for statement in dict.fromkeys(statements)
            for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")
        ]
    finally:
        connection.close()


#: Walking along a partial index is walking along what is open.
PARTIAL = (
    r"ix_(steps_ready|steps_open|jobs_live|events_unpublished|experiments_state_sweep_id"
    r"|experiments_to_clean)"
)
WHOLE_TABLE = re.compile(
    rf"SCAN (steps|rivals|events|jobs|experiments|failed)(?!.* INDEX {PARTIAL}\b)"
)


def test_the_check_itself_sees_a_scan() -> None:
    assert WHOLE_TABLE.search("SCAN steps")
    assert WHOLE_TABLE.search("SCAN steps USING INDEX sqlite_autoindex_steps_1")
    assert not WHOLE_TABLE.search("SCAN steps USING COVERING INDEX ix_steps_ready")
    assert not WHOLE_TABLE.search("SEARCH steps USING INDEX ix_steps_ready (queue=?)")


def test_no_tick_and_no_claim_scans_a_table(app: WlmCelery, watched: Watched) -> None:
    world = World(app.runtime.store)
    _history(world, SMALL)
    _open(world)
    database = str(app.runtime.store.database.url.database)
    for name, ask in {**_tick(app), **_claiming(world)}.items():
        with watched.only():
            ask()
        assert watched.statements, name
        scans = [
            (name, line, statement)
            for line, statement in _plans(database, watched.statements)
            if WHOLE_TABLE.search(line)
        ]
        assert not scans


@pytest.mark.parametrize(
    ("asked", "index"),
    [
        ("claim", "rivals USING INDEX ix_steps_ready|rivals USING COVERING INDEX ix_steps_ready"),
        ("outranked", "SEARCH steps USING INDEX ix_steps_ready"),
        ("take over", "SEARCH steps USING INDEX ix_steps_open"),
        ("expire", "SEARCH steps USING INDEX ix_steps_open"),
        ("wake", "SEARCH steps USING INDEX ix_steps_open"),
        ("dispatch", "SCAN steps USING INDEX ix_steps_ready"),
        ("sweep", "SEARCH steps USING (COVERING )?INDEX ix_steps_ready"),
        ("poll", "jobs USING (COVERING )?INDEX ix_jobs_live"),
        ("publish", "events USING INDEX ix_events_unpublished"),
        ("clean", "experiments USING (COVERING )?INDEX ix_experiments_to_clean"),
        ("release", "experiments USING (COVERING )?INDEX ix_experiments_state_sweep_id"),
    ],
)
def test_the_partial_indexes_are_used(
    app: WlmCelery, watched: Watched, asked: str, index: str
) -> None:
    world = World(app.runtime.store)
    _history(world, SMALL)
    _open(world)
    asks = {**_tick(app), **_claiming(world)}
    with watched.only():
        asks[asked]()
    lines = [
        line for line, _s in _plans(str(app.runtime.store.database.url.database),
                                    watched.statements)
    ]  # fmt: skip
    assert any(re.search(index, line) for line in lines), lines


def _costs(app: WlmCelery, watched: Watched) -> dict[str, int]:
    world = World(app.runtime.store)
    _open(world)
    costs: dict[str, int] = {}
    for name, ask in {**_tick(app), **_claiming(world)}.items():
        with watched.only():
            ask()
        costs[name] = watched.steps
    return costs


def test_a_long_history_costs_nothing(app: WlmCelery, watched: Watched) -> None:
    world = World(app.runtime.store)
    _history(world, SMALL)
    before = _costs(app, watched)
    world.sql("UPDATE experiments SET state = 'DONE'")  # what was open becomes history
    world.sql("UPDATE steps SET state = 'DONE'")
    world.sql("UPDATE jobs SET state = 'SUCCEEDED'")
    world.sql("DELETE FROM polls")
    world.sql("UPDATE events SET published = 1")
    world.sql("DELETE FROM jobs")
    _history(world, LARGE)
    after = _costs(app, watched)
    grown = {
        name: (before[name], after[name])
        for name in before
        if after[name] > before[name] * 1.2 + 10
    }
    assert not grown


def _cost_of_a_waiting_sweep(app: WlmCelery, watched: Watched, size: int) -> int:
    world = World(app.runtime.store)
    sweep = NewSweep(
        id=new_id("swp"), name="s", fingerprint="f", size=size, max_active=2, stop_on_failure=True
    )
    world.store.intake.add_sweep(sweep, [new() for _ in range(size)])
    with watched.only():
        assert Duties(app).release() == size - 2
    return watched.steps


def test_a_waiting_sweep_costs_in_proportion_to_its_size(app: WlmCelery, watched: Watched) -> None:
    small = _cost_of_a_waiting_sweep(app, watched, 100)
    World(app.runtime.store).sql("UPDATE steps SET state = 'CANCELLED'")
    World(app.runtime.store).sql("UPDATE experiments SET state = 'CANCELLED'")
    large = _cost_of_a_waiting_sweep(app, watched, 1000)
    assert large < 15 * small, (small, large)
