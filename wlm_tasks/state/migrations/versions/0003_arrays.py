"""Jobs that are handed to their site together with others."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the columns; versions that do not know them go on working."""
    op.add_column("jobs", sa.Column("array_name", sa.String(40), nullable=True))
    op.add_column("jobs", sa.Column("array_index", sa.Integer(), nullable=True))


def downgrade() -> None:
    """Take them away again."""
    op.drop_column("jobs", "array_index")
    op.drop_column("jobs", "array_name")
