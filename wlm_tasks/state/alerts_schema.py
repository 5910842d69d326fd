"""More tables: who is alive, what went wrong with that, and who is told."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    Double,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    literal_column,
    text,
)

from wlm_tasks.state.schema import BigId, metadata

#: The roster: each incarnation of a worker that was ever at work, until it is forgotten.
workers: Final = Table(
    "workers",
    metadata,
    Column("name", String(255), primary_key=True),  # its Celery node name
    Column("incarnation", String(16), primary_key=True),
    Column("host", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("queues", Text, nullable=False),
    Column("attributes", Text, nullable=False),
    Column("load", Integer, nullable=False, server_default=text("0")),  # a bucket, 0 to 9
    Column("registered_at", Double, nullable=False),
    Column("heard_at", Double, nullable=False),
    Column("state", String(12), nullable=False),
    Column("since", Double, nullable=False),
    Column("reason", Text),
    Column("draining_at", Double),  # since when it is to stop, who wants that, until when
    Column("drained_by", String(128)),
    Column("drain_until", Double),
    Column("gone_at", Double),  # when it said that it ends
    Column("witnesses", Text),  # what they said when that last changed
    Index(
        "ix_workers_here",
        "name",
        sqlite_where=text("state <> 'LEFT'"),
        postgresql_where=text("state <> 'LEFT'"),
    ),
    # those that did not say so themselves may come back
    Index(
        "ix_workers_missed",
        "heard_at",
        sqlite_where=text("state = 'LEFT' AND gone_at IS NULL"),
        postgresql_where=text("state = 'LEFT' AND gone_at IS NULL"),
    ),
)

#: Absences that operators announced, of workers or of all workers of a host.
absences: Final = Table(
    "absences",
    metadata,
    Column("subject", String(255), primary_key=True),
    Column("until", Double, nullable=False),
    Column("reason", Text),
    Column("who", String(128), nullable=False),
    Column("at", Double, nullable=False),
)

#: What went wrong beside the work itself; of each kind one may be open for a subject.
incidents: Final = Table(
    "incidents",
    metadata,
    Column("id", BigId, primary_key=True, autoincrement=True),
    Column("kind", String(20), nullable=False),
    Column("subject", String(255), nullable=False),
    Column("opened_at", Double, nullable=False),
    Column("closed_at", Double),
    Column("told", Boolean, nullable=False),  # whether a notice of its own went out
    Column("reason", Text),
    Column("acked_at", Double),
    Column("acked_by", String(128)),
    Index(
        "uq_incidents_open",
        "kind",
        "subject",
        unique=True,
        sqlite_where=text("closed_at IS NULL"),
        postgresql_where=text("closed_at IS NULL"),
    ),
    Index("ix_incidents_subject_opened_at", "subject", "opened_at"),
)

#: What people are told: written in one transaction with what it tells of.
notices: Final = Table(
    "notices",
    metadata,
    Column("id", BigId, primary_key=True, autoincrement=True),
    Column("key", String(255), nullable=False, unique=True),
    Column("kind", String(20), nullable=False),
    Column("subject", String(255), nullable=False),
    Column("at", Double, nullable=False),
    Column("detail", Text, nullable=False),
    Column("ends", String(255)),  # the key of the notice it ends
)

#: Each notice by each way it goes; what goes out together has one batch.
deliveries: Final = Table(
    "deliveries",
    metadata,
    Column("notice_id", BigId, ForeignKey("notices.id"), primary_key=True, autoincrement=False),
    Column("notifier", String(32), primary_key=True),
    Column("batch", String(64)),
    Column("due_at", Double, nullable=False),
    Column("tries", Integer, nullable=False, server_default=text("0")),
    Column("claimed_until", Double),
    Column("sent_at", Double),
    Column("refused_at", Double),  # for good
    Column("error", Text),
    Index(
        "ix_deliveries_open",
        "notifier",
        "due_at",
        sqlite_where=text("sent_at IS NULL AND refused_at IS NULL"),
        postgresql_where=text("sent_at IS NULL AND refused_at IS NULL"),
    ),
)

#: Conditions spelt out as the partial indexes have them.
HERE: Final[ColumnElement[bool]] = literal_column("workers.state <> 'LEFT'")
MISSED: Final[ColumnElement[bool]] = literal_column(
    "workers.state = 'LEFT' AND workers.gone_at IS NULL"
)
INCIDENT_OPEN: Final[ColumnElement[bool]] = literal_column("incidents.closed_at IS NULL")
UNDELIVERED: Final[ColumnElement[bool]] = literal_column(
    "deliveries.sent_at IS NULL AND deliveries.refused_at IS NULL"
)
