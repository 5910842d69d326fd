"""What transfers have brought."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table; versions that do not know it go on working."""
    op.create_table(
        "transfers",
        sa.Column("experiment_id", sa.String(16), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("files", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=True),
        sa.Column("checksums", sa.Text(), nullable=True),
        sa.Column("at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name="fk_transfers_experiment_id"
        ),
        sa.PrimaryKeyConstraint("experiment_id", "seq", "number", name="pk_transfers"),
    )


def downgrade() -> None:
    """Take it away again."""
    op.drop_table("transfers")
