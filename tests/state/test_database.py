"""Opening the database: what is wrong with it is said in one line."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError
from state.world import World, new

from services.postgresql import PrivatePostgreSQL
from wlm_tasks.errors import ConfigError, ServiceError
from wlm_tasks.model.states import ExperimentState
from wlm_tasks.model.steps import PlannedStep, StepName
from wlm_tasks.state.boundaries import INTENT, claim_boundary, intake_boundary
from wlm_tasks.state.database import Database
from wlm_tasks.state.store import Store


def test_a_url_nobody_can_use() -> None:
    for url in ("nosuch://x/y", "mysql://u:secret@h/d"):
        with pytest.raises(ConfigError, match=r"^database_url: cannot use") as caught:
            Database(url)
        assert "secret" not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_text_that_is_no_url() -> None:
    with pytest.raises(ConfigError, match=r"^database_url: "):
        Database("no url at all")


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"database_url: .*file"):
        Database(f"sqlite:///{tmp_path}/file/wlm.db")


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "wlm.db"
    path.write_text("this is a text, and a rather long one for a database " * 50)
    database = Database(f"sqlite:///{path}")
    for ask in (database.check, database.upgrade, database.revision):
        with pytest.raises(ServiceError, match="not a database"):
            ask()
    database.close()


def test_a_directory_in_place_of_the_file(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}")
    with pytest.raises(ServiceError, match="unable to open database file"):
        database.check()
    database.close()


def test_a_server_that_does_not_answer() -> None:
    database = Database("postgresql+psycopg://u:secret@127.0.0.1:1/d")
    for ask in (database.check, database.upgrade):
        with pytest.raises(ServiceError, match=r"postgresql\+psycopg://u:\*\*\*@") as caught:
            ask()
        assert "secret" not in str(caught.value)
        assert "\n" not in str(caught.value)
    database.close()


def test_a_silent_server_is_given_up_soon() -> None:
    """Unless the URL says otherwise."""
    database = Database("postgresql+psycopg://u@127.0.0.1:1/d?connect_timeout=3")
    told: dict[str, Any] = {}

    def connects(_dialect: Any, _record: Any, _args: Any, how: dict[str, Any]) -> None:
        told.update(how)

    for engine in database.engines:
        event.listen(engine, "do_connect", connects)
        with pytest.raises(OperationalError):
            engine.connect()
        assert (int(told.pop("connect_timeout")), told.pop("tcp_user_timeout")) == (3, 15_000)
    database.close()


def test_a_transaction_that_stands_still_keeps_nobody_waiting(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wlm_tasks.state.database.STANDSTILL_MS", 200)
    frozen, other = Database(postgresql_url), Database(postgresql_url)
    with other.write() as connection:
        connection.execute(text("CREATE TABLE rows AS SELECT 1 AS number"))
    touch = text("UPDATE rows SET number = number")

    def stands_still() -> None:
        with frozen.write() as connection:
            connection.execute(touch)
            with other.write() as waiting:  # for the lock
                waiting.execute(touch)
            connection.execute(touch)

    with pytest.raises(ServiceError, match="idle-in-transaction"):
        stands_still()
    with frozen.write() as connection:
        connection.execute(touch)
    for database in (frozen, other):
        database.close()


def test_tables_that_are_missing(empty_url: str) -> None:
    store = Store(empty_url)
    for ask in (
        lambda: store.intake.add(new(), sent=False),
        store.views.counts,
        store.upkeep.wake_due,
        lambda: store.coordination.acquire("x", "a", 1.0),
    ):
        with pytest.raises(ServiceError, match="wlm db upgrade"):
            ask()
    store.close()


def test_a_lock_that_nobody_lets_go(
    sqlite_world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in ("database", "locking"):
        monkeypatch.setattr(f"wlm_tasks.state.{module}.BUSY_TIMEOUT_S", 0.05)
    path = sqlite_world.store.database.url.database
    other = sqlite3.connect(str(path), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store = Store(f"sqlite:///{path}")
    with pytest.raises(ServiceError, match="locked"):
        store.intake.add(new(), sent=False)
    other.rollback()
    other.close()
    assert store.intake.add(new(), sent=False)
    store.close()


def test_another_thread_may_take_the_last_connection_at_hand(world: World) -> None:
    class TakenMeanwhile(list[Any]):
        def __bool__(self) -> bool:
            return True  # there was one when it was looked at

    connections = world.store.database.swift._lazy
    connections._idle = TakenMeanwhile()
    claim = world.claim(world.add())
    connections._idle = TakenMeanwhile()
    world.store.claims.finish(claim, carry_on=None)
    assert world.steps(claim.experiment_id)[0] == "DONE"
    world.store.database.swift.close()


def test_a_transaction_is_whole_or_nothing(world: World) -> None:
    class OurError(Exception):
        pass

    experiment_id = world.add()

    def half() -> None:
        with world.store.database.write() as connection:
            connection.exec_driver_sql("UPDATE experiments SET name = 'x'")
            raise OurError

    with pytest.raises(OurError):
        half()
    assert world.store.views.experiment(experiment_id).name == "melt"


def test_a_store_outlives_a_restart_of_its_server(
    make_postgresql: object, postgresql: PrivatePostgreSQL
) -> None:
    server: PrivatePostgreSQL = make_postgresql()  # type: ignore[operator]
    store = Store(server.new_database())
    store.database.upgrade()
    world = World(store)
    claim = world.claim(world.add())
    server.stop()
    for ask in (store.views.counts, lambda: store.claims.finish(claim, carry_on=None)):
        with pytest.raises(ServiceError, match=r"^database "):
            ask()
    server.restart()
    store.views.counts()
    store.claims.finish(claim, carry_on=None)
    assert world.steps(claim.experiment_id)[:2] == ["DONE", "READY"]
    store.close()


def test_a_database_file_is_its_owners(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    database = Database(f"sqlite:///{tmp_path / 'wlm.db'}")
    database.upgrade()
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o600}
    database.close()


def test_what_cannot_be_done_again_is_flushed(url: str) -> None:
    """The settings of the databases themselves, on connections as the usual way takes them."""
    database = Database(url)
    if database.is_sqlite:
        assert _setting(database.swift._flushing, "PRAGMA synchronous") == 2  # FULL
        assert _setting(database.swift._lazy, "PRAGMA synchronous") == 1  # NORMAL
    else:
        with database.read() as connection:
            own = connection.exec_driver_sql("SHOW synchronous_commit").scalar()
        assert _setting(database.swift._flushing, "SHOW synchronous_commit") == own
        assert _setting(database.swift._lazy, "SHOW synchronous_commit") == "off"
    database.close()
    assert INTENT.flushed
    assert intake_boundary((PlannedStep(0, StepName.SUBMIT),), sent=False).flushed
    assert not claim_boundary(ExperimentState.PREPARING, 1).flushed


def _setting(connections: Any, ask: str) -> Any:
    connection = connections.take()
    try:
        return connection.dbapi_connection.execute(ask).fetchone()[0]
    finally:
        connections.give_back(connection)
