"""Boundaries as each database is asked to pass them."""

from __future__ import annotations

import json
import re
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from functools import cache, cached_property
from typing import Any, Final, Protocol

from sqlalchemy import (
    ARRAY,
    CTE,
    BindParameter,
    ColumnElement,
    Select,
    String,
    bindparam,
    column,
    exists,
    func,
    insert,
    literal,
    literal_column,
    null,
    select,
    true,
    union_all,
)
from sqlalchemy.sql import visitors

from wlm_tasks.state.locking import begin_immediate
from wlm_tasks.state.moves import Boundary, Event, Move
from wlm_tasks.state.schema import db_now, events

_EVENT_COLUMNS: Final = (
    "experiment_id", "seq", "state", "at", "epoch", "worker", "detail", "published",
)  # fmt: skip


class Script(Protocol):
    """Passes a boundary on a connection of the driver."""

    def run(self, raw: Any, several: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Pass it with each of these parameters, in one transaction; the rows for each."""


def script_of(boundary: Boundary, dialect: Any) -> Script:
    """How a database of this dialect passes the boundary."""
    if dialect.name == "sqlite":
        return _OneOrSeveral(_Lite(boundary, dialect), lambda: _LiteSeveral(boundary, dialect))
    return _OneOrSeveral(_Single(boundary, dialect), lambda: _Several(boundary, dialect))


class _OneOrSeveral:
    """Most boundaries are passed once at a time, some never otherwise."""

    def __init__(self, single: _Lite | _Single, several: Callable[[], Script]) -> None:
        self._single = single
        self._several = cache(several)

    def run(self, raw: Any, several: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        if len(several) == 1:
            return [self._single.run(raw, several[0])]
        return self._several().run(raw, several)


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

    @cached_property
    def names(self) -> Set[str]:
        """Parameters that are to be given."""
        return set(self._places) - self._constants.keys()

    def arguments(self, given: Mapping[str, Any]) -> list[Any]:
        """In the order of their places."""
        values = {**self._constants, **given}
        return [values[name] for name in self._places]


def _row(name: str, columns: Sequence[str]) -> Callable[[Sequence[Any]], Any]:
    kind: Any = namedtuple(name, columns)  # type: ignore[misc]  # the names are known at run time
    make: Callable[[Sequence[Any]], Any] = kind._make
    return make


class _Lite:
    """For SQLite: one statement after the other under its write lock."""

    def __init__(self, boundary: Boundary, dialect: Any) -> None:
        self._moves = [
            (move, compiled := _Compiled(move.make(), dialect), _row(move.name, compiled.columns))
            for move in boundary.moves
        ]
        self._log = _Log(dialect)

    def run(self, raw: Any, parameters: Mapping[str, Any]) -> dict[str, Any]:
        rows: dict[str, Any] = {}
        with self._log.transaction(raw) as log:
            for move, compiled, row in self._moves:
                if (move.after and move.after not in rows) or move.unless in rows:
                    continue
                found = raw.execute(compiled.sql, compiled.arguments(parameters)).fetchall()
                if found:
                    made = rows[move.name] = row(found[0])
                    log(move, made, parameters)
        return rows


class _LiteSeveral:
    """For SQLite: the same, each statement for all experiments that it is to be made for.

    What differs between them comes as JSON, whose rows the updates are joined with.
    """

    def __init__(self, boundary: Boundary, dialect: Any) -> None:
        types = _differing(boundary, dialect)
        self._names = list(types)
        given = _rows_of_json(types)
        self._moves = [
            (
                move,
                compiled := _Compiled(_with(given, move.make()), dialect),
                _row(move.name, compiled.columns),
            )
            for move in boundary.moves
        ]
        self._log = _Log(dialect)

    def run(self, raw: Any, several: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        asked = {one[_KEY]: one for one in several}
        rows: dict[str, dict[str, Any]] = {key: {} for key in asked}
        with self._log.transaction(raw) as log:
            for move, compiled, row in self._moves:
                due = [
                    [one[name] for name in self._names]
                    for one, made in zip(several, rows.values(), strict=True)
                    if not (move.after and move.after not in made) and move.unless not in made
                ]
                if not due:
                    continue
                shared = _shared(compiled.names - {_ROWS, *self._names}, several)
                arguments = compiled.arguments({**shared, _ROWS: json.dumps(due)})
                for found in raw.execute(compiled.sql, arguments).fetchall():
                    made = row(found)
                    rows[made.experiment_id][move.name] = made
                    log(move, made, asked[made.experiment_id])
        return list(rows.values())


class _Log:
    """The events of a transaction, written at its end."""

    def __init__(self, dialect: Any) -> None:
        columns: dict[str, Any] = {name: bindparam(f"b_{name}") for name in _EVENT_COLUMNS}
        self._insert = _Compiled(insert(events).values({**columns, "at": db_now()}), dialect)

    @contextmanager
    def transaction(self, raw: Any) -> Iterator[Callable[[Move, Any, Mapping[str, Any]], None]]:
        logged: list[Any] = []

        def log(move: Move, made: Any, parameters: Mapping[str, Any]) -> None:
            logged.extend(
                self._insert.arguments(_event(event, made, parameters)) for event in move.events
            )

        begin_immediate(raw)
        try:
            yield log
            raw.executemany(self._insert.sql, logged)
        except BaseException:
            raw.rollback()
            raise
        raw.commit()


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
        self._tables = _Tables(made)
        first, *others = made.values()
        joined: Any = first
        for table in others:
            joined = joined.outerjoin(table, true())
        self._compiled = _Compiled(_told(self._tables.select(joined), told), _numeric(dialect))
        self._cursor = dialect.loaded_dbapi.RawCursor

    def run(self, raw: Any, parameters: Mapping[str, Any]) -> dict[str, Any]:
        arguments = self._compiled.arguments(parameters)
        found = self._cursor(raw).execute(self._compiled.sql, arguments).fetchone()
        return {} if found is None else self._tables.rows(found)


class _Tables:
    """The rows that moves return, side by side in one row, after some columns `before`."""

    def __init__(self, made: Mapping[str, CTE], before: Sequence[Any] = ()) -> None:
        self._columns = list(before)
        self._parts: list[tuple[str, slice, Callable[[Sequence[Any]], Any]]] = []
        for name, table in made.items():
            keys = [column.key for column in table.c]
            start = len(self._columns)
            self._parts.append((name, slice(start, start + len(keys)), _row(name, keys)))
            self._columns += [column.label(f"{name}_{column.key}") for column in table.c]

    def select(self, joined: Any) -> Select[Any]:
        return select(*self._columns).select_from(joined)

    def rows(self, found: Sequence[Any]) -> dict[str, Any]:
        return {
            name: row(found[part])
            for name, part, row in self._parts
            if found[part.start] is not None
        }


def _numeric(dialect: Any) -> Any:
    return type(dialect)(paramstyle="numeric_dollar")


def _told(statement: Select[Any], told: Sequence[Any]) -> Select[Any]:
    """The statement, which logs events as well."""
    if not told:
        return statement
    logged = insert(events).from_select(_EVENT_COLUMNS, union_all(*told))
    return statement.add_cte(logged.cte("logged"))


class _Several:
    """For PostgreSQL: one statement that passes a boundary for several experiments.

    What differs between them comes as arrays, whose rows the updates are joined with; each move
    returns its ``experiment_id``, by which those that depend on it find it.
    """

    def __init__(self, boundary: Boundary, dialect: Any) -> None:
        types = _differing(boundary, dialect)
        self._names = list(types)
        given = _rows_of_arrays(types)
        made: dict[str, CTE] = {}
        for move in boundary.moves:
            made[move.name] = _with(given, _only(move, made, _of_experiment)).cte(move.name)
        told = [
            _with(given, _select_event(event, made[move.name])).where(
                made[move.name].c.experiment_id == given.c[_KEY]
            )
            for move in boundary.moves
            for event in move.events
        ]
        self._tables = _Tables(made, [given.c[_KEY]])
        joined: Any = given
        for table in made.values():
            joined = joined.outerjoin(table, table.c.experiment_id == given.c[_KEY])
        self._compiled = _Compiled(_told(self._tables.select(joined), told), _numeric(dialect))
        self._cursor = dialect.loaded_dbapi.RawCursor

    def run(self, raw: Any, several: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        arrays = {name: [one[name] for one in several] for name in self._names}
        shared = _shared(self._compiled.names - arrays.keys(), several)
        arguments = self._compiled.arguments({**shared, **arrays})
        found = self._cursor(raw).execute(self._compiled.sql, arguments)
        rows = {row[0]: self._tables.rows(row) for row in found}
        return [rows[one[_KEY]] for one in several]


#: the parameter that tells experiments apart
_KEY: Final = "b_experiment"
#: parameters that are the same for all, since they are of one holder
_SHARED: Final = re.compile("b_(queue_[0-9]+|worker|message|lease)")
#: the parameter of SQLite's statements that has all the others, but those
_ROWS: Final = "rows"


def _differing(boundary: Boundary, dialect: Any) -> dict[str, Any]:
    """Names and types of the parameters in which experiments differ."""
    types: dict[str, Any] = {}
    for move in boundary.moves:
        types |= {
            name: bind.type
            for name, bind in move.make().compile(dialect=dialect).binds.items()
            if bind.required and name not in boundary.defaults and not _SHARED.fullmatch(name)
        }
        types |= {event.detail: String() for event in move.events if event.detail}
    return types


def _shared(names: Set[str], several: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first = {name: several[0][name] for name in names}
    if any(one[name] != first[name] for one in several for name in names):
        raise ValueError("several holders: each has a transaction of its own")
    return first


def _rows_of_arrays(types: Mapping[str, Any]) -> CTE:
    arrays = [bindparam(name, type_=ARRAY(kind)) for name, kind in types.items()]
    columns: list[Any] = [column(name, kind) for name, kind in types.items()]
    table = func.unnest(*arrays).table_valued(*columns, name="arrays").render_derived()
    return select(*table.c).cte("given")


def _rows_of_json(types: Mapping[str, Any]) -> CTE:
    table = func.json_each(bindparam(_ROWS, type_=String())).table_valued("value", name="rows")
    columns = [
        func.json_extract(table.c.value, literal_column(f"'$[{place}]'"), type_=kind).label(name)
        for place, (name, kind) in enumerate(types.items())
    ]
    return select(*columns).cte("given")


def _of_experiment(made: CTE) -> ColumnElement[bool]:
    return made.c.experiment_id == bindparam(_KEY, type_=String())


def _with(given: CTE, statement: Any) -> Any:
    """The statement with columns of `given` in place of its parameters of that name."""

    def column_of(element: Any, **_options: Any) -> Any:
        if isinstance(element, BindParameter) and element.key in given.c:
            return given.c[element.key]
        return None

    return visitors.replacement_traverse(statement, {}, column_of)


def _only(move: Move, made: Mapping[str, CTE], which: Callable[[CTE], Any] | None = None) -> Any:
    """The move's statement, made to look whether the others it depends on were made.

    `which` says which row of those is meant, if there are several.
    """

    def was_made(name: str) -> Any:
        found = select(literal(1)).select_from(made[name])
        return exists(found if which is None else found.where(which(made[name])))

    conditions = [was_made(move.after)] if move.after else []
    if move.unless:
        conditions.append(~was_made(move.unless))
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
