"""An index for the names of counters that are not private, however many are.

Revision 0008, after 0007, made 2026-11-27.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import context, op

revision: str = "0008"
down_revision: str | Sequence[str] | None = "0007"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None

INDEX = "ix_counter_is_private_name"


def upgrade() -> None:
    if context.is_offline_mode() or not _has_index():
        op.create_index(INDEX, "counter", ["is_private", "name"])


def downgrade() -> None:
    if context.is_offline_mode() or _has_index():
        op.drop_index(INDEX, "counter")


def _has_index() -> bool:
    return any(index["name"] == INDEX for index in sa.inspect(op.get_bind()).get_indexes("counter"))
