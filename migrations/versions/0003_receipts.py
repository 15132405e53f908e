"""Receipts: which numbers were given when, and under which key.

Revision 0003, after 0002, made 2026-11-24.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.mysql import BIGINT, BINARY, DATETIME, INTEGER

revision: str = "0003"
down_revision: str | Sequence[str] | None = "0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.create_table(
        "receipt",
        sa.Column("key", BINARY(16), nullable=False),
        sa.Column("counter_id", INTEGER(unsigned=True), nullable=False),
        sa.Column("first", BIGINT(unsigned=True), nullable=False),
        sa.Column("last", BIGINT(unsigned=True), nullable=False),
        sa.Column("created_at", DATETIME(fsp=6), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_receipt")),
        sa.Index("ix_receipt_counter_id_first", "counter_id", "first"),
        sa.Index("ix_receipt_counter_id_created_at", "counter_id", "created_at", "first", "last"),
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_unicode_ci",
        if_not_exists=True,
    )


def downgrade() -> None:
    op.drop_table("receipt", if_exists=True)
