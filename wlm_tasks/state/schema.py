"""The tables. Times are seconds since the epoch by the database's own clock, JSON is text."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    and_,
    column,
    literal_column,
    table,
    text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

#: SQLite numbers rows by itself only if the column is a plain INTEGER.
BigId = BigInteger().with_variant(Integer(), "sqlite")

sweeps: Final = Table(
    "sweeps",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("key", String(200), unique=True),
    Column("fingerprint", String(64), nullable=False),
    Column("name", String(128), nullable=False),
    Column("size", Integer, nullable=False),
    Column("max_active", Integer),
    Column("stop_on_failure", Boolean, nullable=False),
    Column("created_at", Double, nullable=False),
)

_TO_CLEAN = (
    "cleanup IS NOT NULL AND removed_at IS NULL AND (cleanup = 'delete' OR state <> 'FAILED')"
)

experiments: Final = Table(
    "experiments",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("key", String(200), unique=True),
    Column("fingerprint", String(64), nullable=False),
    Column("name", String(128), nullable=False),
    Column("owner", String(128)),
    Column("project", String(128)),
    Column("site", String(63), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("state", String(12), nullable=False),
    Column("reason", Text),
    Column("spec", Text, nullable=False),
    Column("params", Text, nullable=False),
    Column("labels", Text, nullable=False),
    Column("sweep_id", String(16), ForeignKey("sweeps.id")),
    Column("member", Integer),
    Column("created_at", Double, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("ended_at", Double),
    Column("cancel_sent_at", Double),
    # what becomes of its directory: a policy, NULL for keeping it; seconds after the end; when it
    # is tried again, how often its removal was begun and why the last one failed; when it was gone
    Column("cleanup", String(16)),
    Column("cleanup_after_s", Double),
    Column("cleanup_at", Double),
    Column("cleanup_tries", Integer, nullable=False, server_default=text("0")),
    Column("cleanup_reason", Text),
    Column("removed_at", Double),
    Index("ix_experiments_created_at", "created_at"),
    Index("ix_experiments_state_created_at", "state", "created_at"),
    Index("ix_experiments_sweep_id_member", "sweep_id", "member"),
    Index(
        "ix_experiments_state_sweep_id",
        "state",
        "sweep_id",
        sqlite_where=text("sweep_id IS NOT NULL"),
        postgresql_where=text("sweep_id IS NOT NULL"),
    ),
    Index(
        "ix_experiments_to_clean",
        "ended_at",
        sqlite_where=text(_TO_CLEAN),
        postgresql_where=text(_TO_CLEAN),
    ),
)

steps: Final = Table(
    "steps",
    metadata,
    Column("experiment_id", String(16), ForeignKey("experiments.id"), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("name", String(12), nullable=False),
    Column("queue", String(32), nullable=False),
    Column("last", Boolean, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("state", String(12), nullable=False),
    Column("epoch", Integer, nullable=False, server_default=text("0")),
    Column("attempt", Integer, nullable=False, server_default=text("0")),
    Column("tries", Integer, nullable=False, server_default=text("0")),
    Column("crashes", Integer, nullable=False, server_default=text("0")),
    Column("worker", String(255)),
    Column("message_id", String(64)),
    Column("lease_until", Double),
    Column("sent_at", Double),
    Column("due_at", Double),
    Column("ready_at", Double),
    Column("started_at", Double),
    Column("ended_at", Double),
    Column("reason", Text),
    Column("progress", Text),
    # Partial indexes stay as small as the work that is open, whatever the history.
    Index(
        "ix_steps_ready",
        "queue",
        "priority",
        "sent_at",
        sqlite_where=text("state = 'READY'"),
        postgresql_where=text("state = 'READY'"),
    ),
    Index(
        "ix_steps_open",
        "state",
        "queue",
        "priority",
        sqlite_where=text("state IN ('RUNNING', 'BACKOFF', 'HELD', 'PAUSED')"),
        postgresql_where=text("state IN ('RUNNING', 'BACKOFF', 'HELD', 'PAUSED')"),
    ),
)

jobs: Final = Table(
    "jobs",
    metadata,
    Column("token", String(32), primary_key=True),
    Column("experiment_id", String(16), ForeignKey("experiments.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("site", String(63), nullable=False),
    Column("state", String(12), nullable=False),
    Column("workdir", Text, nullable=False),
    Column("native_id", Text),
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("ended_at", Double),
    Column("exit_code", Integer),
    Column("reason", Text),
    Column("unknown_at", Double),  # since when its site cannot tell how it stands
    # where it is handed to its site together with others: the array they are, its place there
    Column("array_name", String(40)),
    Column("array_index", Integer),
    UniqueConstraint("experiment_id", "number"),
    Index(
        "ix_jobs_live",
        "site",
        sqlite_where=text("state IN ('INTENT', 'PENDING', 'RUNNING')"),
        postgresql_where=text("state IN ('INTENT', 'PENDING', 'RUNNING')"),
    ),
)

#: Append-only, but for the mark that an event went out on the exchange.
events: Final = Table(
    "events",
    metadata,
    Column("id", BigId, primary_key=True, autoincrement=True),
    Column("experiment_id", String(16)),
    Column("seq", Integer),
    Column("state", String(12), nullable=False),
    Column("at", Double, nullable=False),
    Column("epoch", Integer),
    Column("worker", String(255)),
    Column("detail", Text),
    Column("published", Integer, nullable=False),  # 0 or 1
    Index("ix_events_experiment_id", "experiment_id"),
    Index(
        "ix_events_unpublished",
        "id",
        sqlite_where=text("published = 0"),
        postgresql_where=text("published = 0"),
    ),
)

leases: Final = Table(
    "leases",
    metadata,
    Column("name", String(100), primary_key=True),
    Column("holder", String(255), nullable=False),
    Column("expires_at", Double, nullable=False),
)

polls: Final = Table(
    "polls",
    metadata,
    Column("site", String(63), primary_key=True),
    Column("sent_at", Double, nullable=False),
    Column("done_at", Double),
    Column("error", Text),
    Column("begun_at", Double),
    Column("poller", String(64)),  # the message in hand of whoever began it
    Column("pace_s", Double),  # until the next; NULL: as the settings say
)

#: How sites stand, if anything was ever to be said of them; one without a row is UP.
sites: Final = Table(
    "sites",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("state", String(16), nullable=False),  # by the evidence; that it is paused is beside
    Column("since", Double, nullable=False),
    Column("reason", Text),
    Column("found_by", String(12)),  # a poll, or the step of this name
    Column("told_by", String(255)),
    Column("probes", Integer, nullable=False, server_default=text("0")),  # in vain
    Column("probe_at", Double),  # when it is to be tried again
    Column("probing", String(16)),  # the experiment whose step may try
    Column("paused_at", Double),
    Column("paused_reason", Text),
    Column("paused_by", String(128)),
    # what the account has there, others' jobs included, when it was counted
    Column("queued", Integer),
    Column("running", Integer),
    Column("foreign_jobs", Integer),
    Column("load_at", Double),
    # submits that may go at once, and when that was so
    Column("tokens", Double),
    Column("tokens_at", Double),
)

#: Places on lines to hosts that allow a few connections only.
connections: Final = Table(
    "connections",
    metadata,
    Column("line", String(255), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("holder", String(255), nullable=False),
    Column("expires_at", Double, nullable=False),
)

#: What each transfer of an experiment brought, verified; that of its newest try.
transfers: Final = Table(
    "transfers",
    metadata,
    Column("experiment_id", String(16), ForeignKey("experiments.id"), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),  # in the order of the spec
    Column("files", Integer, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", String(64)),  # of a file; of a directory that of `checksums`
    Column("checksums", Text),  # of a directory: as sha256sum(1) writes them, sorted by path
    Column("at", Double, nullable=False),
)

#: A view of the event log: each claim of a step and how it ended. The migrations define it.
attempts: Final = table(
    "attempts",
    column("experiment_id", String),
    column("seq", Integer),
    column("epoch", Integer),
    column("worker", String),
    column("started_at", Double),
    column("ended_at", Double),
    column("outcome", String),
    column("reason", Text),
)

#: Conditions spelt out as the partial indexes have them; SQLite uses those for nothing else.
IS_READY: Final[ColumnElement[bool]] = literal_column("steps.state = 'READY'")
RIVAL_READY: Final[ColumnElement[bool]] = literal_column("rivals.state = 'READY'")
_OPEN = "steps.state IN ('RUNNING', 'BACKOFF', 'HELD', 'PAUSED')"
_LIVE = "jobs.state IN ('INTENT', 'PENDING', 'RUNNING')"
IS_LIVE: Final[ColumnElement[bool]] = literal_column(_LIVE)
#: Experiments whose directory is to be removed once they have ended, or may be after a retry.
TO_CLEAN: Final[ColumnElement[bool]] = literal_column(
    "experiments.cleanup IS NOT NULL AND experiments.removed_at IS NULL"
    " AND (experiments.cleanup = 'delete' OR experiments.state <> 'FAILED')"
)
OF_SWEEP: Final[ColumnElement[bool]] = literal_column("experiments.sweep_id IS NOT NULL")
UNPUBLISHED: Final[ColumnElement[bool]] = literal_column("events.published = 0")


def is_open(state: str) -> ColumnElement[bool]:
    """Steps in one of the open states, found by the index of open steps."""
    return and_(literal_column(_OPEN), steps.c.state == state)


class db_now(FunctionElement[float]):  # noqa: N801 - reads as the SQL function it is
    """The database's clock in seconds since the epoch, so that hosts' clocks do not matter."""

    type = Double()
    inherit_cache = True


@compiles(db_now, "sqlite")
def _sqlite_now(_element: db_now, _compiler: Any, **_kw: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(db_now, "postgresql")
def _postgresql_now(_element: db_now, _compiler: Any, **_kw: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"
