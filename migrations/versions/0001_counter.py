"""The counter, with its one row.

Revision 0001, the first, made 2026-11-24.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import BIGINT, INTEGER, insert

revision: str = "0001"
down_revision: str | Sequence[str] | None = None
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    # DDL is not transactional: each step can be run again after a stop in the middle.
    counter = op.create_table(
        "counter",
        sa.Column("id", INTEGER(unsigned=True), autoincrement=True, nullable=False),
        sa.Column("count", BIGINT(unsigned=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_counter")),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_unicode_ci",
        if_not_exists=True,
    )
    op.execute(insert(counter).values(id=1, count=0).prefix_with("IGNORE"))


def downgrade() -> None:
    op.drop_table("counter", if_exists=True)
