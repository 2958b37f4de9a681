"""Exposures and outcomes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make both tables and their indexes."""
    op.create_table(
        "experiment_exposures",
        sa.Column("seq", _NUMBER, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String, nullable=False),
        sa.Column("experiment", sa.String, nullable=False),
        sa.Column("phase", sa.Integer, nullable=False),
        sa.Column("arm", sa.String, nullable=False),
        sa.Column("unit", sa.String, nullable=False),
        sa.Column("probability", sa.Double, nullable=False),
        sa.Column("request_id", sa.String, nullable=False),
        sa.Column("at_s", sa.Double, nullable=False),
        sa.Column("error", sa.Boolean, nullable=False),
        sa.Column("refusal", sa.Boolean, nullable=False),
        sa.Column("latency_ms", sa.Double),
        sa.Column("ttft_ms", sa.Double),
        sa.Column("output_tokens", sa.Integer),
        sa.Column("finish_reason", sa.String),
    )
    table = "experiment_exposures"
    op.create_index("experiment_exposures_id", table, ["id"], unique=True)
    op.create_index("experiment_exposures_unit", table, ["experiment", "phase", "unit"])
    op.create_index("experiment_exposures_request", table, ["request_id"])
    op.create_table(
        "experiment_outcomes",
        sa.Column("seq", _NUMBER, primary_key=True, autoincrement=True),
        sa.Column("experiment", sa.String, nullable=False),
        sa.Column("phase", sa.Integer, nullable=False),
        sa.Column("arm", sa.String, nullable=False),
        sa.Column("unit", sa.String, nullable=False),
        sa.Column("request_id", sa.String, nullable=False),
        sa.Column("key", sa.String, nullable=False),
        sa.Column("metric", sa.String, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("number", sa.Double),
        sa.Column("label", sa.String),
        sa.Column("comment", sa.Text, nullable=False),
        sa.Column("at_s", sa.Double, nullable=False),
        sa.Column("late", sa.Boolean, nullable=False),
    )
    identity = ["experiment", "unit", "request_id", "key"]
    op.create_index("experiment_outcomes_key", "experiment_outcomes", identity, unique=True)


def downgrade() -> None:
    """Refuse: what was acknowledged is not thrown away."""
    raise NotImplementedError
