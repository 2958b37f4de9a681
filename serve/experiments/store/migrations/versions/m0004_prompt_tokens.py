"""How long prompts were."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the column; of rows that are there nobody knows."""
    op.add_column("experiment_exposures", sa.Column("prompt_tokens", sa.Integer))


def downgrade() -> None:
    """Refuse: what was acknowledged is not thrown away."""
    raise NotImplementedError
