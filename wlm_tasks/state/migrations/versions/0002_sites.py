"""How sites stand, polls and connections, and jobs their sites cannot tell about."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_TIMES = {"polls": ("begun_at", "pace_s"), "jobs": ("unknown_at",)}


def upgrade() -> None:
    """Make the table and the columns; versions that do not know them go on working."""
    op.create_table(
        "sites",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("since", sa.Double(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("found_by", sa.String(12), nullable=True),
        sa.Column("told_by", sa.String(255), nullable=True),
        sa.Column("probes", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("probe_at", sa.Double(), nullable=True),
        sa.Column("probing", sa.String(16), nullable=True),
        sa.Column("paused_at", sa.Double(), nullable=True),
        sa.Column("paused_reason", sa.Text(), nullable=True),
        sa.Column("paused_by", sa.String(128), nullable=True),
        sa.Column("queued", sa.Integer(), nullable=True),
        sa.Column("running", sa.Integer(), nullable=True),
        sa.Column("foreign_jobs", sa.Integer(), nullable=True),
        sa.Column("load_at", sa.Double(), nullable=True),
        sa.Column("tokens", sa.Double(), nullable=True),
        sa.Column("tokens_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("name", name="pk_sites"),
    )
    op.create_table(
        "connections",
        sa.Column("line", sa.String(255), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("holder", sa.String(255), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("line", "number", name="pk_connections"),
    )
    for table, columns in _TIMES.items():
        for column in columns:
            op.add_column(table, sa.Column(column, sa.Double(), nullable=True))
    op.add_column("polls", sa.Column("poller", sa.String(64), nullable=True))


def downgrade() -> None:
    """Take them away again."""
    op.drop_column("polls", "poller")
    for table, columns in _TIMES.items():
        for column in columns:
            op.drop_column(table, column)
    op.drop_table("connections")
    op.drop_table("sites")
