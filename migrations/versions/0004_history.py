"""History: the hits of each hour whose receipts were rolled up.

Revision 0004, after 0003, made 2026-11-24.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import BIGINT, DATETIME, INTEGER

revision: str = "0004"
down_revision: str | Sequence[str] | None = "0003"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "history",
        sa.Column("counter_id", INTEGER(unsigned=True), autoincrement=False, nullable=False),
        sa.Column("hour", DATETIME(), nullable=False),
        sa.Column("hits", BIGINT(unsigned=True), nullable=False),
        sa.PrimaryKeyConstraint("counter_id", "hour", name=op.f("pk_history")),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_unicode_ci",
        if_not_exists=True,
    )


def downgrade() -> None:
    op.drop_table("history", if_exists=True)
