"""Whether a unit asked the same again, and how it was known."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add both columns; rows that are there asked once, by users."""
    table, no = "experiment_exposures", sa.false()
    op.add_column(table, sa.Column("regenerate", sa.Boolean, nullable=False, server_default=no))
    op.add_column(table, sa.Column("source", sa.String, nullable=False, server_default="user"))


def downgrade() -> None:
    """Refuse: what was acknowledged is not thrown away."""
    raise NotImplementedError
