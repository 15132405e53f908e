"""The algorithm by which a statement changes a table: one under which others go on writing to it.

A statement of Alembic's `op` gets its here; one in SQL of one's own names it itself. Without, a server that can do no
better copies the table and blocks all writes meanwhile; with it, the server refuses.
"""

from alembic.ddl.base import AddColumn, AlterTable, DropColumn
from alembic.ddl.mysql import MySQLAlterDefault
from sqlalchemy import Dialect
from sqlalchemy.schema import (
    DDL,
    AddConstraint,
    CreateIndex,
    DDLElement,
    DropConstraint,
    DropIndex,
    DropTableComment,
    SetColumnComment,
    SetTableComment,
)

_AT_ONCE = AddColumn, DropColumn, MySQLAlterDefault
"""These change no row: ALGORITHM=INSTANT, for which a table's size does not matter."""

_OTHERS = AlterTable, AddConstraint, DropConstraint, SetTableComment, DropTableComment, SetColumnComment


def with_algorithm(statement: DDLElement, dialect: Dialect) -> DDLElement:
    """Returns the statement with its algorithm, or as it is where it changes no table that is there."""
    sql = str(statement.compile(dialect=dialect))
    if isinstance(statement, _AT_ONCE):
        sql = f"{sql}, ALGORITHM=INSTANT"
    elif isinstance(statement, CreateIndex):
        sql = f"{sql} ALGORITHM=INPLACE LOCK=NONE"
    elif isinstance(statement, DropIndex):  # DROP INDEX takes no algorithm on MariaDB
        index, table = sql.strip().removeprefix("DROP INDEX ").rsplit(" ON ", 1)
        sql = f"ALTER TABLE {table} DROP INDEX {index}, ALGORITHM=INPLACE, LOCK=NONE"
    elif isinstance(statement, _OTHERS):
        sql = f"{sql}, ALGORITHM=INPLACE, LOCK=NONE"
    else:
        return statement
    return DDL(sql)  # type: ignore[no-untyped-call]  # SQLAlchemy's own gap
