"""The counter's tables. No foreign key leads to `counter`: it would make hits wait for the roll-up, and deadlock."""

from sqlalchemy import Boolean, Column, Index, Table, text
from sqlalchemy.dialects.mysql import BIGINT, BINARY, DATETIME, INTEGER, VARCHAR

from service.platform.database import TABLE_OPTIONS, metadata

__all__ = ["IN_ORDER", "LARGEST", "counter", "history", "metadata", "receipt"]

LARGEST = 2**53 - 1
"""The last number that JavaScript clients can tell from its neighbours; counters stop there."""

_NOW = text("CURRENT_TIMESTAMP(6)")

counter = Table(
    "counter",
    metadata,
    Column("id", INTEGER(unsigned=True), primary_key=True),
    Column("count", BIGINT(unsigned=True), nullable=False),
    # The default is for the version before names, which may still run while this one is deployed.
    Column("name", VARCHAR(63, charset="ascii", collation="ascii_bin"), nullable=False, server_default="page"),
    Column("title", VARCHAR(200), nullable=True),
    Column("start", BIGINT(unsigned=True), nullable=False, server_default="0"),
    Column("created_at", DATETIME(fsp=6), nullable=False, server_default=_NOW),
    Column("is_private", Boolean(), nullable=False, server_default="0"),
    Column("image_hits", INTEGER(unsigned=True), nullable=False, server_default="0"),
    Column("once_a_day", Boolean(), nullable=False, server_default="0"),
    Index("uq_counter_name", "name", unique=True),
    Index("ix_counter_is_private_name", "is_private", "name"),
    **TABLE_OPTIONS,
)
"""A row holds the last number that was given, and the one before the first; how many images a minute may count; and
whether a view counts once for a visitor and day."""

receipt = Table(
    "receipt",
    metadata,
    Column("key", BINARY(16), primary_key=True),
    Column("counter_id", INTEGER(unsigned=True), nullable=False),
    Column("first", BIGINT(unsigned=True), nullable=False),
    Column("last", BIGINT(unsigned=True), nullable=False),
    Column("created_at", DATETIME(fsp=6), nullable=False),
    Index("ix_receipt_counter_id_first", "counter_id", "first"),
    # It holds all that a sum over a span of time reads.
    Index("ix_receipt_counter_id_created_at", "counter_id", "created_at", "first", "last"),
    **TABLE_OPTIONS,
)
"""A row says that the numbers `first` to `last` were given under `key`, at the database's time in UTC."""

IN_ORDER = "FORCE INDEX (ix_receipt_counter_id_first)"
"""A hint for reading a counter's receipts by number. Left to choose, both servers may take the wider index, which has
all columns, and sort every receipt of the counter."""

history = Table(
    "history",
    metadata,
    Column("counter_id", INTEGER(unsigned=True), primary_key=True, autoincrement=False),
    Column("hour", DATETIME(), primary_key=True),
    Column("hits", BIGINT(unsigned=True), nullable=False),
    **TABLE_OPTIONS,
)
"""A row holds the hits of an hour (UTC) whose receipts are rolled up."""
