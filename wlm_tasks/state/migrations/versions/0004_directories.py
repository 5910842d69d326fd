"""Directories that are removed after the end of their experiments."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_TO_CLEAN = sa.text(
    "cleanup IS NOT NULL AND removed_at IS NULL AND (cleanup = 'delete' OR state <> 'FAILED')"
)


def upgrade() -> None:
    """Make the columns; versions that do not know them go on working."""
    for column in (
        sa.Column("cleanup", sa.String(16), nullable=True),
        sa.Column("cleanup_after_s", sa.Double(), nullable=True),
        sa.Column("cleanup_at", sa.Double(), nullable=True),
        sa.Column("cleanup_tries", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("cleanup_reason", sa.Text(), nullable=True),
        sa.Column("removed_at", sa.Double(), nullable=True),
    ):
        op.add_column("experiments", column)
    op.create_index(
        "ix_experiments_to_clean",
        "experiments",
        ["ended_at"],
        sqlite_where=_TO_CLEAN,
        postgresql_where=_TO_CLEAN,
    )


def downgrade() -> None:
    """Take them away again."""
    op.drop_index("ix_experiments_to_clean", table_name="experiments")
    for name in (
        *("removed_at", "cleanup_reason", "cleanup_tries", "cleanup_at", "cleanup_after_s"),
        "cleanup",
    ):
        op.drop_column("experiments", name)
