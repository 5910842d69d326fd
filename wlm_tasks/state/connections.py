"""Who is connected with sites that allow a few connections only: a lease for each of them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from wlm_tasks.state.database import Database
from wlm_tasks.state.schema import connections, db_now


class ConnectionLeases:
    """Numbered places on lines to hosts; each has one holder until its lease runs out."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._insert: Any = sqlite.insert if database.is_sqlite else postgresql.insert

    def take(self, line: str, most: int, holder: str, ttl_s: float) -> bool:
        """Take one of `most` places on a line for `ttl_s` seconds; False if none is free."""
        with self._database.write() as connection:
            taken = connection.execute(
                select(connections.c.number).where(
                    connections.c.line == line, connections.c.expires_at > db_now()
                )
            ).scalars()
            for number in sorted(set(range(most)) - set(taken)):
                values = {"holder": holder, "expires_at": db_now() + ttl_s}
                statement = self._insert(connections).values(line=line, number=number, **values)
                statement = statement.on_conflict_do_update(
                    index_elements=[connections.c.line, connections.c.number],
                    set_=values,
                    where=connections.c.expires_at <= db_now(),  # another may be faster
                ).returning(connections.c.number)
                if connection.execute(statement).one_or_none() is not None:
                    return True
            return False

    def renew(self, line: str, holder: str, ttl_s: float) -> bool:
        """Prolong a lease; False if it ran out and somebody else has the place."""
        with self._database.write() as connection:
            renewed = connection.execute(
                update(connections)
                .where(connections.c.line == line, connections.c.holder == holder)
                .values(expires_at=db_now() + ttl_s)
            ).rowcount
            return bool(renewed)

    def give_back(self, line: str, holder: str) -> None:
        """Give up a place."""
        with self._database.write() as connection:
            connection.execute(
                delete(connections).where(
                    connections.c.line == line, connections.c.holder == holder
                )
            )

    def holders(self, line: str) -> list[str]:
        """Who is connected now."""
        with self._database.read() as connection:
            return list(
                connection.execute(
                    select(connections.c.holder)
                    .where(connections.c.line == line, connections.c.expires_at > db_now())
                    .order_by(connections.c.number)
                ).scalars()
            )
