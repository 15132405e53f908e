"""The application's tables. `alembic revision --autogenerate` writes a revision from what changes here."""

from sqlalchemy import Column, Table, text
from sqlalchemy.dialects.mysql import BIGINT, DATETIME, VARCHAR

from service.platform.database import TABLE_OPTIONS, metadata

__all__ = ["LONGEST", "metadata", "notes"]

LONGEST = 4_000
"""Characters of a note that the table has room for."""

notes = Table(
    "notes",
    metadata,
    Column("id", BIGINT(unsigned=True), primary_key=True),
    Column("text", VARCHAR(LONGEST), nullable=False),
    Column("created_at", DATETIME(fsp=6), nullable=False, server_default=text("CURRENT_TIMESTAMP(6)")),
    **TABLE_OPTIONS,
)
"""Times are in UTC, as every session is."""
