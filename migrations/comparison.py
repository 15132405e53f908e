"""Comparison of columns for `alembic check` and `revision --autogenerate`, done by the server itself.

The servers normalize types and defaults: JSON is longtext on MariaDB, a decimal's `0` is 0.00, `true` is 1. So the
metadata's table is created as a temporary table, and SQLAlchemy's reflection of both is compared. On MariaDB it reads
an expression with quotes only in part, so that a change within one is not detected there.
"""

import logging
import re
from typing import Any

from alembic.ddl.mysql import MySQLImpl
from sqlalchemy import Column, MetaData, Table, exc, inspect, text
from sqlalchemy.engine.interfaces import ReflectedColumn
from sqlalchemy.schema import CreateTable, DDLElement
from sqlalchemy.types import TypeEngine

from migrations.algorithms import with_algorithm

log = logging.getLogger("migrations")

PROBE = "alembic_probe"
"""The name of the temporary table."""

_Columns = dict[str, ReflectedColumn]

_CHARACTERS = re.compile(r" (?:CHARACTER SET|COLLATE) \w+")
_NOW = re.compile(r"\(?\b(?:now|current_timestamp|localtime|localtimestamp)\b(?:\(\))?\)?", re.IGNORECASE)


class ServersComparison(MySQLImpl):
    """Replaces Alembic's implementation for MySQL and MariaDB, which it registers itself for.

    It also gives each statement of a revision its algorithm.
    """

    __dialect__ = "mysql"

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._made_anew: dict[str, _Columns] = {}

    def _exec(self, construct: Any, *arguments: Any, **named: Any) -> Any:
        """Executes or prints a statement of a revision. Alembic has no public place for what it lacks (1.20)."""
        if isinstance(construct, DDLElement):
            construct = with_algorithm(construct, self.dialect)
        return super()._exec(construct, *arguments, **named)

    def compare_type(self, inspector_column: Column[Any], metadata_column: Column[Any]) -> bool:
        """Returns whether the types differ."""
        wanted = self._wanted(metadata_column)
        if wanted is None:
            return bool(super().compare_type(inspector_column, metadata_column))
        return self._words(inspector_column.type, metadata_column) != self._words(wanted["type"], metadata_column)

    def compare_server_default(
        self,
        inspector_column: Column[Any],
        metadata_column: Column[Any],
        rendered_metadata_default: str | None,
        rendered_inspector_default: str | None,
    ) -> bool:
        """Returns whether the server defaults differ, ON UPDATE included."""
        wanted = self._wanted(metadata_column)
        if wanted is None:
            alembics: Any = super().compare_server_default
            return bool(
                alembics(inspector_column, metadata_column, rendered_metadata_default, rendered_inspector_default)
            )
        return _without_synonyms(rendered_inspector_default) != _without_synonyms(wanted["default"])

    def _words(self, type_: TypeEngine[Any], asked: Column[Any]) -> str:
        """Returns the type's SQL, with character set and collation only if the metadata has them."""
        words = type_.compile(self.dialect)
        characters = getattr(asked.type, "charset", None) or getattr(asked.type, "collation", None)
        return words if characters else _CHARACTERS.sub("", words)

    def _wanted(self, column: Column[Any]) -> ReflectedColumn | None:
        """Returns the reflected column of the temporary table, None if there is none."""
        table = column.table
        assert isinstance(table, Table)
        if table.key not in self._made_anew:
            self._made_anew[table.key] = self._make_anew(table)
        return self._made_anew[table.key].get(column.name)

    def _make_anew(self, table: Table) -> _Columns:
        """Creates the temporary table and reflects its columns, by name; returns none if it cannot be created."""
        connection = self.connection
        assert connection is not None
        probe = table.to_metadata(MetaData(), name=PROBE)
        make = str(CreateTable(probe, include_foreign_key_constraints=[]).compile(connection))
        try:
            connection.exec_driver_sql(make.replace("CREATE TABLE", "CREATE TEMPORARY TABLE", 1))
        except exc.DBAPIError as error:
            log.warning(
                "the columns of %s are compared by Alembic's own rules, which may tell differences that there are not: "
                "no temporary table can be made (%s). Does the migration user have CREATE TEMPORARY TABLES?",
                table.name,
                error.orig,
            )
            return {}
        try:
            return {one["name"]: one for one in inspect(connection).get_columns(PROBE)}
        finally:
            connection.execute(text(f"DROP TEMPORARY TABLE {PROBE}"))


def _without_synonyms(default: str | None) -> str | None:
    """Returns the default with one synonym of CURRENT_TIMESTAMP, and None for NULL."""
    if default is None or default.upper() == "NULL":
        return None
    return _NOW.sub("CURRENT_TIMESTAMP", default)
