"""The transactions a step passes, each as cheap as its database allows.

A step is claimed and recorded by a few guarded updates with an event each, always the same ones
and many times a second. Such a `Boundary` is made of SQLAlchemy's statements, which are compiled
once and then go straight to the driver: on SQLite one after the other in one transaction, on
PostgreSQL as a single statement (one round trip, and a transaction of its own).

Several experiments can pass a boundary together: then each statement is joined with what differs
between them, and is executed once for all (`scripts`).

What cannot be done again is flushed to the disk before anybody acts on it: an experiment that was
accepted, the intent to submit a job. Any other boundary outlives the crash of every process, but
a power cut may undo it, and then a step that can be repeated is repeated. Both databases write
one log in order, so whatever is flushed takes everything before it along.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Engine

from wlm_tasks.errors import ServiceError
from wlm_tasks.state.moves import Boundary
from wlm_tasks.state.scripts import Script, script_of

if TYPE_CHECKING:
    from sqlalchemy.pool import PoolProxiedConnection

#: Connections kept at hand between transactions; more are given back to the pool.
_KEPT: Final = 4


class Swift:
    """Runs boundaries on an engine's connections, those not to be flushed on a lazy engine's."""

    def __init__(
        self, engine: Engine, lazy: Engine, trouble: Callable[[BaseException], Exception | None]
    ) -> None:
        self._flushing = _Connections(engine)
        self._lazy = _Connections(lazy)
        self._dialect = engine.dialect
        self._trouble = trouble
        self._scripts: dict[Boundary, Script] = {}

    def run(self, boundary: Boundary, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Pass a boundary once, as `run_all` does."""
        [rows] = self.run_all(boundary, [parameters])
        return rows

    def run_all(
        self, boundary: Boundary, several: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """Pass a boundary with each of these parameters, all in one transaction.

        They are of different experiments, and have the same holder if any.

        Returns for each the rows returned, by the names of the moves that were made; empty if
        none was. Raises `ServiceError` if the database is out of reach, and `IntegrityError` as
        SQLAlchemy does; then none was passed.
        """
        script = self._scripts.get(boundary)
        if script is None:
            script = self._scripts[boundary] = script_of(boundary, self._dialect)
        connections = self._flushing if boundary.flushed else self._lazy
        connection = None
        try:
            connection = connections.take()
            given = [{**boundary.defaults, **parameters} for parameters in several]
            made = script.run(connection.dbapi_connection, given)
        except BaseException as error:
            trouble = self._trouble(error)
            connections.drop(connection, all_of_them=isinstance(trouble, ServiceError))
            if trouble is None:
                raise
            raise trouble from error
        connections.give_back(connection)
        return made

    def close(self) -> None:
        """Give back the connections at hand."""
        self._flushing.close()
        self._lazy.close()


class _Connections:
    """An engine's connections, a few of them kept at hand between transactions."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._idle: list[PoolProxiedConnection] = []

    def take(self) -> PoolProxiedConnection:
        try:
            return self._idle.pop()
        except IndexError:  # asking first would be a race against other threads
            return self._engine.raw_connection()

    def give_back(self, connection: PoolProxiedConnection) -> None:
        if len(self._idle) < _KEPT:
            self._idle.append(connection)
        else:
            connection.close()

    def drop(self, connection: PoolProxiedConnection | None, *, all_of_them: bool) -> None:
        """Throw away a connection that may be broken, and those that may have broken with it."""
        if connection is not None:
            connection.invalidate()
        with suppress(IndexError):
            while all_of_them:
                self._idle.pop().invalidate()

    def close(self) -> None:
        with suppress(IndexError):
            while True:
                self._idle.pop().close()
