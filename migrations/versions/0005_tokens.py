"""Tokens of the API.

Revision 0005, after 0004, made 2026-11-26.
"""

from collections.abc import Sequence

from alembic import op

revision: str = "0005"
down_revision: str | Sequence[str] | None = "0004"
branch_labels: str | Sequence[str] | None = None
depends_on: str | Sequence[str] | None = None


def upgrade() -> None:
    # In SQL, since op.create_table would make the indexes by statements of their own.
    op.execute(
        "CREATE TABLE IF NOT EXISTS api_token ("
        " id INTEGER UNSIGNED NOT NULL AUTO_INCREMENT,"
        " name VARCHAR(63) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,"
        " hash BINARY(32) NOT NULL,"
        " scopes VARCHAR(255) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,"
        " created_at DATETIME(6) NOT NULL,"
        " expires_at DATETIME NULL,"
        " revoked_at DATETIME(6) NULL,"
        " last_used_on DATE NULL,"
        " PRIMARY KEY (id),"
        " UNIQUE INDEX uq_api_token_name (name),"
        " UNIQUE INDEX uq_api_token_hash (hash)"
        ") ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE utf8mb4_unicode_ci"
    )


def downgrade() -> None:
    op.drop_table("api_token", if_exists=True)
