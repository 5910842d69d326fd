"""Migrations lead to the tables the code has, on both databases."""

from __future__ import annotations

import subprocess
import sys

import pytest
from alembic.autogenerate import compare_metadata
from alembic.command import downgrade, upgrade
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

from wlm_tasks.errors import ServiceError
from wlm_tasks.state.database import Database
from wlm_tasks.state.schema import attempts, metadata
from wlm_tasks.state.store import Store


@pytest.fixture
def database(empty_url: str) -> Database:
    return Database(empty_url)


def _differences(database: Database) -> list[object]:
    with database.read() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        return list(compare_metadata(context, metadata))


def _indexes(database: Database) -> dict[str, tuple[list[str | None], str | None]]:
    """Columns and condition of each index, by name."""
    found: dict[str, tuple[list[str | None], str | None]] = {}
    kind = "sqlite" if database.is_sqlite else "postgresql"
    with database.read() as connection:
        inspector = inspect(connection)
        for table in metadata.tables:
            for index in inspector.get_indexes(table):
                condition = index.get("dialect_options", {}).get(f"{kind}_where")
                found[str(index["name"])] = (
                    index["column_names"], None if condition is None else str(condition),
                )  # fmt: skip
    return found


def test_a_fresh_database_has_the_tables_of_the_code(database: Database) -> None:
    assert _differences(database) != []
    database.upgrade()
    assert _differences(database) == []
    database.close()


def test_and_the_indexes_with_their_conditions(database: Database) -> None:
    database.upgrade()
    found = _indexes(database)
    for table in metadata.tables.values():
        for index in table.indexes:
            columns, condition = found[str(index.name)]
            assert columns == [column.name for column in index.columns]
            wanted = index.dialect_options[database.url.get_backend_name()]["where"]
            assert (condition is None) == (wanted is None), index.name
            if condition is not None and database.is_sqlite:  # the other rewrites it
                assert condition == str(wanted)
    database.close()


def test_upgrading_again_does_nothing(database: Database) -> None:
    assert database.revision() is None
    database.upgrade()
    assert database.revision() == database.head()
    database.upgrade()
    assert database.revision() == database.head()
    assert _differences(database) == []
    database.close()


def test_the_view_of_attempts_is_there(database: Database) -> None:
    database.upgrade()
    with database.read() as connection:
        assert inspect(connection).get_view_names() == ["attempts"]
        names = connection.execute(text("SELECT * FROM attempts")).keys()
    assert list(names) == [column.name for column in attempts.columns]
    database.close()


def test_what_check_says(database: Database) -> None:
    with pytest.raises(ServiceError, match=r"is at revision none, .* needs 0\d*; run: wlm db up"):
        database.check()
    database.upgrade()
    database.check()
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ServiceError, match="is at revision 9999, this version needs 0"):
        database.check()
    database.close()


def test_a_newer_database_is_not_touched(database: Database) -> None:
    database.upgrade()
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ServiceError, match=r"newer version: .*9999"):
        database.upgrade()
    assert database.revision() == "9999"
    database.close()


def test_down_and_up_again(database: Database) -> None:
    database.upgrade()
    with database.write() as connection:
        downgrade(database._alembic(connection), "base")
    with database.read() as connection:
        assert inspect(connection).get_table_names() == ["alembic_version"]
        assert inspect(connection).get_view_names() == []
    database.upgrade()
    assert _differences(database) == []
    database.close()


def test_rows_of_the_version_before_are_kept(database: Database) -> None:
    with database.write() as connection:
        upgrade(database._alembic(connection), "0001")
        for statement in _ROWS_BEFORE:
            connection.execute(text(statement))
    database.upgrade()
    store = Store(database.url.render_as_string(hide_password=False))
    [job] = store.jobs.live("alpha")
    assert (job.token, job.native_id, job.unknown) == ("wlm-a-1", "4711", False)
    assert store.polls.errors() == {"alpha": "no route"}
    assert store.polls.due({"alpha": 1.0}, 30.0) == ["alpha"]
    assert store.polls.begin("alpha", "m1", spacing_s=1.0, lease_s=60.0)
    assert store.sites.get("alpha").takes_work
    store.close()
    with database.write() as connection:
        downgrade(database._alembic(connection), "0001")
        # what the version before writes
        connection.execute(text("UPDATE polls SET sent_at = 2, done_at = 2, error = NULL"))
        assert connection.execute(text("SELECT native_id FROM jobs")).scalar() == "4711"
    database.close()


_ROWS_BEFORE = (
    "INSERT INTO experiments (id, fingerprint, name, site, priority, state, spec, params,"
    " labels, created_at, updated_at)"
    " VALUES ('exp-a', 'f', 'melt', 'alpha', 4, 'SUBMITTED', '{}', '{}', '{}', 1, 1)",
    "INSERT INTO jobs (token, experiment_id, number, site, state, workdir, native_id, created_at)"
    " VALUES ('wlm-a-1', 'exp-a', 1, 'alpha', 'PENDING', '/w', '4711', 1)",
    "INSERT INTO polls (site, sent_at, done_at, error) VALUES ('alpha', 1, 1, 'no route')",
)


def test_an_upgrade_that_fails_leaves_nothing(database: Database) -> None:
    with database.write() as connection:
        connection.execute(text("CREATE TABLE jobs (token INTEGER)"))
    with pytest.raises(ServiceError, match="jobs"):
        database.upgrade()
    with database.read() as connection:
        assert inspect(connection).get_table_names() == ["jobs"]
    database.close()


_UPGRADE = """
import sys
from wlm_tasks.state.database import Database
import alembic.command
database = Database(sys.argv[1])
print("go", flush=True)
sys.stdin.readline()
database.upgrade()
database.check()
database.close()
"""


def test_several_may_upgrade_at_once(database: Database, empty_url: str) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _UPGRADE, empty_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "go\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        _out, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    assert _differences(database) == []
    database.close()
