"""Jobs on a schedule.

Revision 0006, after 0005, made 2026-11-26.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0006"
down_revision: str | Sequence[str] | None = "0005"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    op.execute(
        "CREATE TABLE IF NOT EXISTS job ("
        " name VARCHAR(63) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,"
        " due_at DATETIME NULL,"
        " run BINARY(16) NULL,"
        " started_at DATETIME(6) NULL,"
        " seen_at DATETIME(6) NULL,"
        " ended_at DATETIME(6) NULL,"
        " error VARCHAR(200) NULL,"
        " PRIMARY KEY (name)"
        ") ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE utf8mb4_unicode_ci"
    )


def downgrade() -> None:
    op.drop_table("job", if_exists=True)
