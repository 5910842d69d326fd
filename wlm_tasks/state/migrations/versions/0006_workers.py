"""Who is alive, what went wrong with that, and who was told."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_BigId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Make the tables; versions that do not know them go on working."""
    _workers()
    _incidents()
    _notices()


def _workers() -> None:
    op.create_table(
        "workers",
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("incarnation", sa.String(16), nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("queues", sa.Text(), nullable=False),
        sa.Column("attributes", sa.Text(), nullable=False),
        sa.Column("load", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("registered_at", sa.Double(), nullable=False),
        sa.Column("heard_at", sa.Double(), nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("since", sa.Double(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("draining_at", sa.Double(), nullable=True),
        sa.Column("drained_by", sa.String(128), nullable=True),
        sa.Column("drain_until", sa.Double(), nullable=True),
        sa.Column("gone_at", sa.Double(), nullable=True),
        sa.Column("witnesses", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("name", "incarnation", name="pk_workers"),
    )
    here = sa.text("state <> 'LEFT'")
    op.create_index(
        "ix_workers_here", "workers", ["name"], sqlite_where=here, postgresql_where=here
    )
    missed = sa.text("state = 'LEFT' AND gone_at IS NULL")
    op.create_index(
        "ix_workers_missed", "workers", ["heard_at"], sqlite_where=missed, postgresql_where=missed
    )
    op.create_table(
        "absences",
        sa.Column("subject", sa.String(255), nullable=False),
        sa.Column("until", sa.Double(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("who", sa.String(128), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("subject", name="pk_absences"),
    )


def _incidents() -> None:
    op.create_table(
        "incidents",
        sa.Column("id", _BigId, autoincrement=True, nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("subject", sa.String(255), nullable=False),
        sa.Column("opened_at", sa.Double(), nullable=False),
        sa.Column("closed_at", sa.Double(), nullable=True),
        sa.Column("told", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("acked_at", sa.Double(), nullable=True),
        sa.Column("acked_by", sa.String(128), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_incidents"),
    )
    still = sa.text("closed_at IS NULL")
    op.create_index(
        "uq_incidents_open",
        "incidents",
        ["kind", "subject"],
        unique=True,
        sqlite_where=still,
        postgresql_where=still,
    )
    op.create_index("ix_incidents_subject_opened_at", "incidents", ["subject", "opened_at"])


def _notices() -> None:
    op.create_table(
        "notices",
        sa.Column("id", _BigId, autoincrement=True, nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("subject", sa.String(255), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("ends", sa.String(255), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_notices"),
        sa.UniqueConstraint("key", name="uq_notices_key"),
    )
    op.create_table(
        "deliveries",
        sa.Column("notice_id", _BigId, autoincrement=False, nullable=False),
        sa.Column("notifier", sa.String(32), nullable=False),
        sa.Column("batch", sa.String(64), nullable=True),
        sa.Column("due_at", sa.Double(), nullable=False),
        sa.Column("tries", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("claimed_until", sa.Double(), nullable=True),
        sa.Column("sent_at", sa.Double(), nullable=True),
        sa.Column("refused_at", sa.Double(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["notice_id"], ["notices.id"], name="fk_deliveries_notice_id"),
        sa.PrimaryKeyConstraint("notice_id", "notifier", name="pk_deliveries"),
    )
    undelivered = sa.text("sent_at IS NULL AND refused_at IS NULL")
    op.create_index(
        "ix_deliveries_open",
        "deliveries",
        ["notifier", "due_at"],
        sqlite_where=undelivered,
        postgresql_where=undelivered,
    )


def downgrade() -> None:
    """Take them away again."""
    for table in ("deliveries", "notices", "incidents", "absences", "workers"):
        op.drop_table(table)
