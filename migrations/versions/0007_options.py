"""Options of a counter: whether it is private, how many images a minute may count, and what counts as a view.

Revision 0007, after 0006, made 2026-11-26.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import context, op

revision: str = "0007"
down_revision: str | Sequence[str] | None = "0006"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    if context.is_offline_mode() or not _has_options():
        op.execute(
            "ALTER TABLE counter"
            " ADD COLUMN is_private BOOL NOT NULL DEFAULT 0,"
            " ADD COLUMN image_hits INTEGER UNSIGNED NOT NULL DEFAULT 0,"
            " ADD COLUMN once_a_day BOOL NOT NULL DEFAULT 0,"
            " ALGORITHM=INSTANT"
        )


def downgrade() -> None:
    if context.is_offline_mode() or _has_options():
        op.execute(
            "ALTER TABLE counter"
            " DROP COLUMN is_private, DROP COLUMN image_hits, DROP COLUMN once_a_day, ALGORITHM=INSTANT"
        )


def _has_options() -> bool:
    return any(column["name"] == "is_private" for column in sa.inspect(op.get_bind()).get_columns("counter"))
