"""What shadows answered."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
_NUMBER = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make the table and its indexes."""
    table = "experiment_shadows"
    op.create_table(
        table,
        sa.Column("seq", _NUMBER, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String, nullable=False),
        sa.Column("experiment", sa.String, nullable=False),
        sa.Column("phase", sa.Integer, nullable=False),
        sa.Column("arm", sa.String, nullable=False),
        sa.Column("unit", sa.String, nullable=False),
        sa.Column("request_id", sa.String, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("at_s", sa.Double, nullable=False),
        sa.Column("error", sa.Boolean, nullable=False),
        sa.Column("latency_ms", sa.Double),
        sa.Column("output_tokens", sa.Integer),
        sa.Column("prompt", sa.Text),
        sa.Column("answer", sa.Text),
        sa.Column("shadow_answer", sa.Text),
    )
    op.create_index("experiment_shadows_id", table, ["id"], unique=True)
    op.create_index("experiment_shadows_experiment", table, ["experiment"])


def downgrade() -> None:
    """Refuse: what was kept is not thrown away."""
    raise NotImplementedError
