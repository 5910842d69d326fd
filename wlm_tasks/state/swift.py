"""The transactions a step passes, each as cheap as its database allows.

A step is claimed and recorded by a few guarded updates with an event each, always the same ones
and many times a second. Such a `Boundary` is made of SQLAlchemy's statements, which are compiled
once and then go straight to the driver: on SQLite one after the other in one transaction, on
PostgreSQL as a single statement (one round trip, and a transaction of its own).

What cannot be done again is flushed to the disk before anybody acts on it: an experiment that was
accepted, the intent to submit a job. Any other boundary outlives the crash of every process, but
a power cut may undo it, and then a step that can be repeated is repeated. Both databases write
one log in order, so whatever is flushed takes everything before it along.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    CTE,
    Engine,
    Select,
    bindparam,
    exists,
    insert,
    literal,
    null,
    select,
    true,
    union_all,
)

from wlm_tasks.errors import ServiceError
from wlm_tasks.state.locking import begin_immediate
from wlm_tasks.state.schema import db_now, events

if TYPE_CHECKING:
    from sqlalchemy.pool import PoolProxiedConnection

#: Connections kept at hand between transactions; more are given back to the pool.
_KEPT: Final = 4
_EVENT_COLUMNS: Final = (
    "experiment_id", "seq", "state", "at", "epoch", "worker", "detail", "published",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Event:
    """What the log says of a move; `worker` and `detail` name parameters."""

    state: str
    of_step: bool = True  #: otherwise of the experiment, and to be published
    worker: str | None = None
    detail: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Move:
    """One guarded update of one row, made only `after` another of the boundary was made."""

    name: str
    #: the statement under these conditions and its own; the first column it returns is never NULL
    make: Callable[..., Any]
    after: str | None = None
    unless: str | None = None  #: not made if that one was made
    events: tuple[Event, ...] = ()


@dataclass(frozen=True, eq=False)
class Boundary:
    """Moves that are made together or, if the first finds its row changed, not at all.

    They touch different rows, and the rows are locked in the order of the moves.
    """

    moves: tuple[Move, ...]
    defaults: Mapping[str, Any] = field(default_factory=dict)  #: of parameters
    flushed: bool = False  #: on the disk when `Swift.run` returns


class Swift:
    """Runs boundaries on an engine's connections, those not to be flushed on a lazy engine's."""

    def __init__(
        self, engine: Engine, lazy: Engine, trouble: Callable[[BaseException], Exception | None]
    ) -> None:
        self._flushing = _Connections(engine)
        self._lazy = _Connections(lazy)
        self._dialect = engine.dialect
        self._trouble = trouble
        self._script = _Sequence if self._dialect.name == "sqlite" else _Single
        self._scripts: dict[Boundary, _Sequence | _Single] = {}

    def run(self, boundary: Boundary, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Pass a boundary once, as `run_all` does."""
        [rows] = self.run_all(boundary, [parameters])
        return rows

    def run_all(
        self, boundary: Boundary, several: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """Pass a boundary with each of these parameters, all in one transaction.

        Returns for each the rows returned, by the names of the moves that were made; empty if
        none was. Raises `ServiceError` if the database is out of reach, and `IntegrityError` as
        SQLAlchemy does; then none was passed.
        """
        script = self._scripts.get(boundary)
        if script is None:
            script = self._scripts[boundary] = self._script(boundary, self._dialect)
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


class _Compiled:
    """A statement as the driver wants it."""

    def __init__(self, statement: Any, dialect: Any) -> None:
        compiled = statement.compile(dialect=dialect)
        self.sql = str(compiled)
        self._constants = {
            name: value
            for name, value in compiled.params.items()
            if not compiled.binds[name].required
        }
        self._places: list[str] = compiled.positiontup
        self.columns = [column.key for column in getattr(statement, "exported_columns", ())]

    def arguments(self, given: Mapping[str, Any]) -> list[Any]:
        """In the order of their places."""
        values = {**self._constants, **given}
        return [values[name] for name in self._places]


def _row(name: str, columns: Sequence[str]) -> Callable[[Sequence[Any]], Any]:
    kind: Any = namedtuple(name, columns)  # type: ignore[misc]  # the names are known at run time
    make: Callable[[Sequence[Any]], Any] = kind._make
    return make


class _Sequence:
    """For SQLite: one statement after the other under its write lock."""

    def __init__(self, boundary: Boundary, dialect: Any) -> None:
        self._moves = [
            (move, compiled := _Compiled(move.make(), dialect), _row(move.name, compiled.columns))
            for move in boundary.moves
        ]
        columns: dict[str, Any] = {name: bindparam(f"b_{name}") for name in _EVENT_COLUMNS}
        self._log = _Compiled(insert(events).values({**columns, "at": db_now()}), dialect)

    def run(self, raw: Any, several: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        begin_immediate(raw)
        try:
            logged: list[Any] = []
            made = [self._move(raw, parameters, logged) for parameters in several]
            raw.executemany(self._log.sql, logged)
        except BaseException:
            raw.rollback()
            raise
        raw.commit()
        return made

    def _move(self, raw: Any, parameters: Mapping[str, Any], logged: list[Any]) -> dict[str, Any]:
        rows: dict[str, Any] = {}
        for move, compiled, row in self._moves:
            if (move.after and move.after not in rows) or move.unless in rows:
                continue
            found = raw.execute(compiled.sql, compiled.arguments(parameters)).fetchall()
            if not found:
                continue
            made = rows[move.name] = row(found[0])
            logged += [
                self._log.arguments(_event(event, made, parameters)) for event in move.events
            ]
        return rows


def _event(event: Event, made: Any, parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "b_experiment_id": made.experiment_id,
        "b_seq": made.seq if event.of_step else None,
        "b_state": event.state,
        "b_epoch": made.epoch if event.of_step else None,
        "b_worker": parameters[event.worker] if event.worker else None,
        "b_detail": parameters[event.detail] if event.detail else None,
        "b_published": int(event.of_step),
    }


class _Single:
    """For PostgreSQL: one statement whose updates are common table expressions.

    It has the server's own placeholders (``$1``): psycopg would look for its own in a statement
    of this length each time anew, which takes as long as the server does.
    """

    def __init__(self, boundary: Boundary, dialect: Any) -> None:
        made: dict[str, CTE] = {}
        for move in boundary.moves:
            made[move.name] = _only(move, made).cte(move.name)
        told = [
            _select_event(event, made[move.name])
            for move in boundary.moves
            for event in move.events
        ]
        tables = list(made.values())
        joined: Any = tables[0]
        for table in tables[1:]:
            joined = joined.outerjoin(table, true())
        columns = [column.label(f"{t.name}_{column.key}") for t in tables for column in t.c]
        statement = select(*columns).select_from(joined)
        if told:
            logged = insert(events).from_select(_EVENT_COLUMNS, union_all(*told))
            statement = statement.add_cte(logged.cte("logged"))
        self._compiled = _Compiled(statement, type(dialect)(paramstyle="numeric_dollar"))
        self._cursor = dialect.loaded_dbapi.RawCursor
        self._slices: list[tuple[str, slice, Callable[[Sequence[Any]], Any]]] = []
        start = 0
        for name, table in made.items():
            keys = [column.key for column in table.c]
            self._slices.append((name, slice(start, start + len(keys)), _row(name, keys)))
            start += len(keys)

    def run(self, raw: Any, several: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        if len(several) == 1:
            return [self._rows(self._execute(raw, several[0]))]
        # one round trip, and one transaction up to its end
        with raw.pipeline():
            cursors = [self._execute(raw, parameters) for parameters in several]
        return [self._rows(cursor) for cursor in cursors]

    def _execute(self, raw: Any, parameters: Mapping[str, Any]) -> Any:
        return self._cursor(raw).execute(self._compiled.sql, self._compiled.arguments(parameters))

    def _rows(self, cursor: Any) -> dict[str, Any]:
        found = cursor.fetchone()
        if found is None:
            return {}
        return {
            name: row(found[part])
            for name, part, row in self._slices
            if found[part.start] is not None
        }


def _only(move: Move, made: Mapping[str, CTE]) -> Any:
    """The move's statement, made to look whether the others it depends on were made."""
    conditions: list[Any] = []
    if move.after:
        conditions.append(exists(select(literal(1)).select_from(made[move.after])))
    if move.unless:
        conditions.append(~exists(select(literal(1)).select_from(made[move.unless])))
    return move.make(*conditions)


def _select_event(event: Event, made: CTE) -> Select[Any]:
    return select(
        made.c.experiment_id,
        made.c.seq if event.of_step else null(),
        literal(event.state),
        db_now(),
        made.c.epoch if event.of_step else null(),
        bindparam(event.worker) if event.worker else null(),
        bindparam(event.detail) if event.detail else null(),
        literal(int(event.of_step)),
    )
