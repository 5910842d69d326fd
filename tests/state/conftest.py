"""Every test of the store runs on SQLite and on PostgreSQL."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import event, text
from state.rig import Rig, open_rig
from state.sent import Sent
from state.world import World

from services.postgresql import PrivatePostgreSQL
from wlm_tasks.celery import WlmCelery, make_app
from wlm_tasks.config import load
from wlm_tasks.control import duties as duties_module
from wlm_tasks.control import sweep as sweep_module
from wlm_tasks.state.advance import NextStep
from wlm_tasks.state.database import Database
from wlm_tasks.state.schema import metadata
from wlm_tasks.state.store import Store
from wlm_tasks.tasks import batch, engine


def _upgrade(url: str) -> str:
    database = Database(url)
    database.upgrade()
    database.close()
    return url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An upgraded database file to copy."""
    path = tmp_path_factory.mktemp("template") / "wlm.db"
    _upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgresql_shared(postgresql: PrivatePostgreSQL) -> str:
    """An upgraded database for one test after the other: a new one for each takes long."""
    url = _upgrade(postgresql.new_database())
    database = Database(url)
    with database.write() as connection:
        # these tests kill no server, so nothing need be on the disk
        name = url.rpartition("/")[2]
        connection.execute(text(f"ALTER DATABASE {name} SET synchronous_commit = off"))
    database.close()
    return url


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def dialect(request: pytest.FixtureRequest) -> str:
    """The kind of database."""
    return str(request.param)


@pytest.fixture
def empty_url(dialect: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without any table."""
    if dialect == "sqlite":
        return f"sqlite:///{tmp_path / 'empty.db'}"
    return str(request.getfixturevalue("postgresql_url"))


@pytest.fixture
def url(dialect: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database with all tables and no rows."""
    if dialect == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "wlm.db")
        return f"sqlite:///{tmp_path / 'wlm.db'}"
    shared = str(request.getfixturevalue("postgresql_shared"))
    database = Database(shared)
    with database.write() as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(table.delete())
    database.close()
    return shared


def _open(url: str) -> Store:
    store = Store(url)
    if store.database.is_sqlite:
        for engine in store.database.engines:
            event.listen(engine, "connect", _without_sync)
    return store


def _without_sync(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA synchronous = OFF")


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """A store on a database of the test's own."""
    made = _open(url)
    yield made
    made.close()


@pytest.fixture
def world(store: Store) -> World:
    """The store with shorthands."""
    return World(store)


@pytest.fixture
def sqlite_world(sqlite_template: Path, tmp_path: Path) -> Iterator[World]:
    """A world on SQLite, for tests of what only SQLite has."""
    shutil.copy(sqlite_template, tmp_path / "only.db")
    made = _open(f"sqlite:///{tmp_path / 'only.db'}")
    yield World(made)
    made.close()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    """Put nothing into a broker, all of whose queues seem empty."""
    made = Sent()

    def send(_app: object, steps: Iterable[NextStep]) -> None:
        made.chains += steps

    def send_system(
        _app: object, task: str, args: list[object], _queue: str, **_how: object
    ) -> None:
        made.on_system(task)
        made.system.append((task, args))

    for module in (duties_module, sweep_module):
        monkeypatch.setattr(module, "send", send)
    monkeypatch.setattr(duties_module, "send_system", send_system)
    monkeypatch.setattr(sweep_module, "depths", lambda _app, queues: dict.fromkeys(queues, 0))
    return made


@pytest.fixture
def app(sqlite_template: Path, tmp_path: Path, sent: Sent) -> Iterator[WlmCelery]:
    """Celery with a database of its own and no broker."""
    shutil.copy(sqlite_template, tmp_path / "wlm.db")
    made = make_app(load(environ={"WLM_DATA_DIR": str(tmp_path), "HOME": str(tmp_path)}))
    yield made
    made.runtime.close()
    made.close()


@pytest.fixture
def rig(url: str, tmp_path: Path, sent: Sent) -> Iterator[Rig]:
    """A worker, a control process and a site in memory."""
    yield from open_rig(url, tmp_path, sent)


@pytest.fixture
def quick(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Rig:
    """All steps are known to take a moment only; a host that is slow now changes nothing."""
    monkeypatch.setattr(engine, "_ROUND_S", 60.0)
    monkeypatch.setattr(batch, "_PATIENCE_S", 60.0)
    monkeypatch.setattr(rig.engine._pace, "room", lambda _site, _name: 16)
    return rig
