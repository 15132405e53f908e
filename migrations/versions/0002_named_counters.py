"""Counters have names, a title and a start.

Revision 0002, after 0001, made 2026-11-24.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import context, op

revision: str = "0002"
down_revision: str | Sequence[str] | None = "0001"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    # One statement, which is done as a whole or not at all. The version before this one goes on counting on its row.
    if not _has_names():
        op.execute(
            """ALTER TABLE counter
    ADD COLUMN name VARCHAR(63) CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT 'page',
    ADD COLUMN title VARCHAR(200) NULL,
    ADD COLUMN start BIGINT UNSIGNED NOT NULL DEFAULT 0,
    ADD COLUMN created_at DATETIME(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
    ADD UNIQUE INDEX uq_counter_name (name),
    ALGORITHM=INPLACE, LOCK=NONE"""
        )
    # What was counted before there were receipts has none.
    op.execute("UPDATE counter SET start = count")


def downgrade() -> None:
    op.execute("DELETE FROM counter WHERE id <> 1")
    if context.is_offline_mode() or _has_names():
        op.execute(
            """ALTER TABLE counter
    DROP INDEX uq_counter_name,
    DROP COLUMN name, DROP COLUMN title, DROP COLUMN start, DROP COLUMN created_at,
    ALGORITHM=INPLACE, LOCK=NONE"""
        )


def _has_names() -> bool:
    if context.is_offline_mode():
        return False
    return any(column["name"] == "name" for column in sa.inspect(op.get_bind()).get_columns("counter"))
