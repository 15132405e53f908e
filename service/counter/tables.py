"""The counter's table."""

from sqlalchemy import Column, Table
from sqlalchemy.dialects.mysql import BIGINT, INTEGER

from service.database import TABLE_OPTIONS, metadata

counter = Table(
    "counter",
    metadata,
    Column("id", INTEGER(unsigned=True), primary_key=True),
    Column("count", BIGINT(unsigned=True), nullable=False),
    **TABLE_OPTIONS,
)
"""A row holds how many hits it has been given: the last number that was answered."""
