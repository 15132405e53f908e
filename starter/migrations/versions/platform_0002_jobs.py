"""Jobs on a schedule.

Revision platform_0002, after platform_0001. The number is not one of the application's, which count on by themselves.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "platform_0002"
down_revision: str | Sequence[str] | None = "platform_0001"
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
