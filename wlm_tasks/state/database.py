"""Opening the database: one engine to write with, one to read with."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from wlm_tasks.errors import ConfigError, ServiceError
from wlm_tasks.state.locking import BUSY_TIMEOUT_S, begin_immediate
from wlm_tasks.state.swift import Swift

MIGRATIONS = Path(__file__).parent / "migrations"
#: How long a transaction may stand still before PostgreSQL ends it: one of a process that is frozen
#: would keep its locks for ever, and whoever watches over the workers would wait for them.
STANDSTILL_MS: Final = 15_000
#: How long PostgreSQL's host may be silent, unless the URL says so itself. By TCP's own rules it
#: takes a quarter of an hour until a call fails on a network that is cut, and for minutes after
#: the network is mended nothing goes on.
_LIMITS: Final = {
    "connect_timeout": 10,
    "tcp_user_timeout": 15_000,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
}


class Database:
    """Connections to one database.

    Every write is one transaction that takes SQLite's write lock at its start (a reader that
    later wants to write could otherwise find its snapshot stale and fail). Reads are single
    statements outside transactions.
    """

    def __init__(self, url: str) -> None:
        try:
            self.url = make_url(url)
            self.is_sqlite = self.url.get_backend_name() == "sqlite"
            if self.is_sqlite and self.url.database:
                Path(self.url.database).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        except (OSError, SQLAlchemyError) as error:
            raise ConfigError(f"database_url: {error}") from error
        self._writer = self._engine(immediate=True)
        self._reader = self._engine(immediate=False)
        if not self.is_sqlite:
            event.listen(self._writer, "connect", _let_go)
        self._lazy = self._engine(immediate=self.is_sqlite)
        event.listen(self._lazy, "connect", _flush_later_sqlite if self.is_sqlite else _flush_later)
        # on PostgreSQL each statement of the usual way is a transaction
        usual = self._writer if self.is_sqlite else self._reader
        #: the usual way of a step
        self.swift = Swift(usual, self._lazy, self._trouble)

    @property
    def engines(self) -> tuple[Engine, ...]:
        """Every engine, to be listened to or closed."""
        return self._writer, self._reader, self._lazy

    def _engine(self, *, immediate: bool) -> Engine:
        try:
            if self.is_sqlite:
                engine = create_engine(
                    self.url, connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False}
                )
                event.listen(engine, "do_connect", self._make_private)
                event.listen(engine, "connect", _prepare_sqlite)
                if immediate:
                    event.listen(engine, "connect", _never_sleep)
                    event.listen(engine, "begin", _begin)
                return engine
            options: dict[str, Any] = {} if immediate else {"isolation_level": "AUTOCOMMIT"}
            options["connect_args"] = {k: v for k, v in _LIMITS.items() if k not in self.url.query}
            engine = create_engine(self.url, pool_pre_ping=False, pool_size=8, **options)
        except (ImportError, SQLAlchemyError) as error:
            raise ConfigError(
                f"database_url: cannot use {self.url.render_as_string()}: {error}"
            ) from error
        if immediate:
            event.listen(engine, "connect", _let_go)
        return engine

    def _make_private(self, *_how: Any) -> None:
        """Make the file for its owner only, whatever its directory lets others do."""
        if self.url.database and self.url.database != ":memory:":
            with suppress(FileExistsError):
                os.close(os.open(self.url.database, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction; committed at the end, rolled back on any error."""
        with self._told(), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection for single reading statements."""
        with self._told(), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what is wrong with the database, not with the statement, into `ServiceError`."""
        try:
            yield
        except Exception as error:
            trouble = self._trouble(error)
            if trouble is None:
                raise
            raise trouble from error

    def _trouble(self, error: BaseException) -> Exception | None:
        """What to raise instead of an error of the driver; None for any other error."""
        if isinstance(error, PoolTimeoutError):
            return ServiceError(f"database {self.url.render_as_string()}: {error}")
        dbapi: Any = self._writer.dialect.loaded_dbapi
        if isinstance(error, dbapi.IntegrityError):
            return IntegrityError(None, None, error)
        said = error.orig if isinstance(error, DBAPIError) else error
        if not isinstance(said, dbapi.Error):
            return None
        passing = isinstance(said, dbapi.OperationalError | dbapi.InterfaceError)
        passing = passing or _cannot_write(said)
        if passing or type(said) is dbapi.DatabaseError or _lacks_tables(said):
            return self._unreachable(said)
        return None

    def _unreachable(self, said: Any) -> ServiceError:
        detail = str(said).strip().splitlines() or [type(said).__name__]
        remedy = "; run: wlm db upgrade" if _lacks_tables(said) else ""
        return ServiceError(f"database {self.url.render_as_string()}: {detail[0]}{remedy}")

    def upgrade(self) -> None:
        """Bring the tables to this version's revision; does nothing if they are there.

        Several processes may do it at once. Raises `ServiceError` if it is not possible, and
        then nothing has changed.
        """
        from alembic import command  # noqa: PLC0415 - slow to import, rarely needed
        from alembic.util import CommandError  # noqa: PLC0415 - the same

        try:
            with self.write() as connection:
                if not self.is_sqlite:  # which has one writer anyway
                    connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('wlm db'))"))
                command.upgrade(self._alembic(connection), "head")
        except CommandError as error:
            raise ServiceError(
                f"database {self.url.render_as_string()}: is of another, perhaps newer version: "
                f"{error}"
            ) from error
        except DBAPIError as error:
            raise self._unreachable(error.orig) from error

    def revision(self) -> str | None:
        """The revision the tables are at, None for an empty database."""
        with self.read() as connection:
            if not self._writer.dialect.has_table(connection, "alembic_version"):
                return None
            return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()

    def head(self) -> str:
        """The revision this version of the code wants."""
        from alembic.script import ScriptDirectory  # noqa: PLC0415 - see upgrade

        return str(ScriptDirectory(str(MIGRATIONS)).get_current_head())

    def check(self) -> None:
        """Raise `ServiceError` unless the database is there and at the right revision."""
        revision, head = self.revision(), self.head()
        if revision != head:
            raise ServiceError(
                f"database {self.url.render_as_string()}: is at revision {revision or 'none'}, "
                f"this version needs {head}; run: wlm db upgrade"
            )

    def _alembic(self, connection: Connection) -> Any:
        from alembic.config import Config  # noqa: PLC0415 - see upgrade

        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        config.attributes["connection"] = connection
        return config

    def close(self) -> None:
        """Close every connection."""
        self.swift.close()
        for engine in self.engines:
            engine.dispose()


def _cannot_write(said: Any) -> bool:
    """SQLSTATE class 25: a server that just became a standby, or an end for standing still."""
    return str(getattr(said, "sqlstate", None) or "").startswith("25")


def _lacks_tables(said: Any) -> bool:
    return getattr(said, "sqlstate", None) == "42P01" or str(said).startswith("no such table")


def _prepare_sqlite(dbapi_connection: Any, _record: Any) -> None:
    dbapi_connection.isolation_level = None  # no BEGIN but ours
    cursor = dbapi_connection.cursor()
    _use_wal(cursor)
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _use_wal(cursor: Any) -> None:
    """Set the journal's mode, which stays; SQLite does not wait for others while it does so."""
    end = time.monotonic() + BUSY_TIMEOUT_S
    while cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)


def _flush_later_sqlite(dbapi_connection: Any, _record: Any) -> None:
    dbapi_connection.execute("PRAGMA synchronous=NORMAL")


def _flush_later(dbapi_connection: Any, _record: Any) -> None:
    dbapi_connection.execute("SET synchronous_commit TO off")


def _let_go(dbapi_connection: Any, _record: Any) -> None:
    """Have the server end a transaction whose process stands still, with the locks it has."""
    dbapi_connection.execute(f"SET idle_in_transaction_session_timeout TO {STANDSTILL_MS}")
    dbapi_connection.commit()


def _never_sleep(dbapi_connection: Any, _record: Any) -> None:
    # Waiting for the lock is left to `begin_immediate`.
    dbapi_connection.execute("PRAGMA busy_timeout=0")


def _begin(connection: Connection) -> None:
    begin_immediate(connection.connection.dbapi_connection)
