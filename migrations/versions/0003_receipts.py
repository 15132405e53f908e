"""Receipts: which numbers were given when, and under which key.

Revision 0003, after 0002, made 2026-11-24.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0003"
down_revision: str | Sequence[str] | None = "0002"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    # In SQL, since op.create_table would make the indexes by statements of their own.
    op.execute(
        """CREATE TABLE IF NOT EXISTS receipt (
    `key` BINARY(16) NOT NULL,
    counter_id INTEGER UNSIGNED NOT NULL,
    first BIGINT UNSIGNED NOT NULL,
    last BIGINT UNSIGNED NOT NULL,
    created_at DATETIME(6) NOT NULL,
    PRIMARY KEY (`key`),
    INDEX ix_receipt_counter_id_first (counter_id, first),
    INDEX ix_receipt_counter_id_created_at (counter_id, created_at, first, last)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE utf8mb4_unicode_ci"""
    )


def downgrade() -> None:
    op.drop_table("receipt", if_exists=True)
