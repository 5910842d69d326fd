"""First tables, their indexes, and the view of attempts."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_OPEN = "state IN ('RUNNING', 'BACKOFF', 'HELD', 'PAUSED')"
_LIVE = "state IN ('INTENT', 'PENDING', 'RUNNING')"

# An attempt begins when a step is claimed and ends with whatever is written next of that step:
# by the holder of the claim, who has the same epoch, or by whoever took it away, who raised it.
_ATTEMPTS = """
CREATE VIEW attempts AS
SELECT
    begun.experiment_id,
    begun.seq,
    begun.epoch,
    begun.worker,
    begun.at AS started_at,
    ended.at AS ended_at,
    CASE ended.state WHEN 'RUNNING' THEN 'TAKEN_OVER' ELSE ended.state END AS outcome,
    {reason} AS reason
FROM events AS begun
LEFT JOIN events AS ended ON ended.id = (
    SELECT min(later.id)
    FROM events AS later
    WHERE later.experiment_id = begun.experiment_id
        AND later.seq = begun.seq
        AND later.epoch >= begun.epoch
        AND later.id > begun.id
)
WHERE begun.state = 'RUNNING' AND begun.seq IS NOT NULL
"""
_REASON = {
    "sqlite": "json_extract(ended.detail, '$.reason')",
    "postgresql": "CAST(ended.detail AS json) ->> 'reason'",
}


def upgrade() -> None:
    """Make everything."""
    _control_tables()
    _experiments()
    _steps()
    _jobs()
    _events()
    op.execute(_ATTEMPTS.format(reason=_REASON[op.get_bind().dialect.name]))


def downgrade() -> None:
    """Remove everything; the indexes go with their tables."""
    op.execute("DROP VIEW attempts")
    for table in ("events", "jobs", "steps", "experiments", "sweeps", "polls", "leases"):
        op.drop_table(table)


def _control_tables() -> None:
    op.create_table(
        "leases",
        sa.Column("name", sa.String(100), nullable=False),
        sa.Column("holder", sa.String(255), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_leases"),
    )
    op.create_table(
        "polls",
        sa.Column("site", sa.String(63), nullable=False),
        sa.Column("sent_at", sa.Double(), nullable=False),
        sa.Column("done_at", sa.Double(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("site", name="pk_polls"),
    )


def _experiments() -> None:
    op.create_table(
        "sweeps",
        sa.Column("id", sa.String(16), nullable=False),
        sa.Column("key", sa.String(200), nullable=True),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("max_active", sa.Integer(), nullable=True),
        sa.Column("stop_on_failure", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sweeps"),
        sa.UniqueConstraint("key", name="uq_sweeps_key"),
    )
    op.create_table(
        "experiments",
        sa.Column("id", sa.String(16), nullable=False),
        sa.Column("key", sa.String(200), nullable=True),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("owner", sa.String(128), nullable=True),
        sa.Column("project", sa.String(128), nullable=True),
        sa.Column("site", sa.String(63), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("params", sa.Text(), nullable=False),
        sa.Column("labels", sa.Text(), nullable=False),
        sa.Column("sweep_id", sa.String(16), nullable=True),
        sa.Column("member", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.Column("cancel_sent_at", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["sweep_id"], ["sweeps.id"], name="fk_experiments_sweep_id"),
        sa.PrimaryKeyConstraint("id", name="pk_experiments"),
        sa.UniqueConstraint("key", name="uq_experiments_key"),
    )
    op.create_index("ix_experiments_created_at", "experiments", ["created_at"])
    op.create_index("ix_experiments_state_created_at", "experiments", ["state", "created_at"])
    op.create_index("ix_experiments_sweep_id_member", "experiments", ["sweep_id", "member"])
    _partial_index(
        "ix_experiments_state_sweep_id",
        "experiments",
        ["state", "sweep_id"],
        "sweep_id IS NOT NULL",
    )


def _steps() -> None:
    op.create_table(
        "steps",
        sa.Column("experiment_id", sa.String(16), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(12), nullable=False),
        sa.Column("queue", sa.String(32), nullable=False),
        sa.Column("last", sa.Boolean(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("epoch", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("attempt", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("tries", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("crashes", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("worker", sa.String(255), nullable=True),
        sa.Column("message_id", sa.String(64), nullable=True),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.Column("sent_at", sa.Double(), nullable=True),
        sa.Column("due_at", sa.Double(), nullable=True),
        sa.Column("ready_at", sa.Double(), nullable=True),
        sa.Column("started_at", sa.Double(), nullable=True),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("progress", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name="fk_steps_experiment_id"
        ),
        sa.PrimaryKeyConstraint("experiment_id", "seq", name="pk_steps"),
    )
    _partial_index("ix_steps_ready", "steps", ["queue", "priority", "sent_at"], "state = 'READY'")
    _partial_index("ix_steps_open", "steps", ["state", "queue", "priority"], _OPEN)


def _jobs() -> None:
    op.create_table(
        "jobs",
        sa.Column("token", sa.String(32), nullable=False),
        sa.Column("experiment_id", sa.String(16), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("site", sa.String(63), nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("workdir", sa.Text(), nullable=False),
        sa.Column("native_id", sa.Text(), nullable=True),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("started_at", sa.Double(), nullable=True),
        sa.Column("ended_at", sa.Double(), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["experiment_id"], ["experiments.id"], name="fk_jobs_experiment_id"
        ),
        sa.PrimaryKeyConstraint("token", name="pk_jobs"),
        sa.UniqueConstraint("experiment_id", "number", name="uq_jobs_experiment_id_number"),
    )
    _partial_index("ix_jobs_live", "jobs", ["site"], _LIVE)


def _events() -> None:
    op.create_table(
        "events",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("experiment_id", sa.String(16), nullable=True),
        sa.Column("seq", sa.Integer(), nullable=True),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=True),
        sa.Column("worker", sa.String(255), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("published", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
    )
    op.create_index("ix_events_experiment_id", "events", ["experiment_id"])
    _partial_index("ix_events_unpublished", "events", ["id"], "published = 0")


def _partial_index(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(
        name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where)
    )
