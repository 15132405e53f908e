"""Each query finds its rows by an index, however many there are."""

from collections.abc import Iterator
from typing import Any

import pymysql.cursors
import pytest
from sqlalchemy import ClauseElement, text
from sqlalchemy.dialects import mysql

from harness.databases import Database, DatabaseServer, new_database
from service.counter import commands, connections, queries, roll_up, verification
from tests.conftest import MakeTables

KEY = b"k" * 16
BY_COUNTER = {"ix_receipt_counter_id_first", "ix_receipt_counter_id_created_at"}
SPAN = {"counter_id": 1, "start": "2026-01-01", "end": "2026-01-02", "form": "%Y"}
WATCHED = queries.VALUES.params(names=["plan-1", "plan-7"]).compile(
    dialect=mysql.dialect(), compile_kwargs={"literal_binds": True}
)


@pytest.fixture(scope="module")
def many(server: DatabaseServer, make_tables: MakeTables) -> Iterator[Database]:
    """Enough rows of enough counters that reading all of a table would be slow; 1 is the counter `plan-1`."""
    with new_database(server) as database:
        make_tables(database)
        counters = ",".join(f"({i}, 'plan-{i}', 0)" for i in range(2, 3_000))
        receipts = ",".join(
            f"(x'{i:032x}', {i % 50 + 1}, {i}, {i}, '2026-01-01' + INTERVAL {i} MINUTE)" for i in range(20_000)
        )
        hours = ",".join(f"({i % 50 + 1}, '2026-01-01' + INTERVAL {i} HOUR, 1)" for i in range(5_000))
        database.execute("UPDATE counter SET name = 'plan-1'")
        database.execute(f"INSERT INTO counter (id, name, count) VALUES {counters}")
        database.execute(f"INSERT INTO receipt VALUES {receipts}")
        database.execute("UPDATE receipt SET `key` = %s WHERE counter_id = 1 LIMIT 1", KEY)
        database.execute(f"INSERT INTO history VALUES {hours}")
        for table in "counter", "receipt", "history":
            database.execute(f"ANALYZE TABLE {table}")
        yield database


@pytest.mark.parametrize(
    ("statement", "parameters", "indexes"),
    [
        (queries.COUNTER, {"name": "plan-1"}, {"uq_counter_name", "ix_receipt_counter_id_first"}),
        (queries.names([""]), {"after": "plan-7", "limit": 20}, {"uq_counter_name"}),
        (queries.names([]), {"after": "plan-7", "limit": 20}, {"ix_counter_is_private_name"}),
        (queries.names(["plan-8", "x"]), {"after": "plan-7", "limit": 20}, {"ix_counter_is_private_name"}),
        (text(str(WATCHED)), {}, {"uq_counter_name"}),
        (queries.ID, {"name": "plan-1"}, {"uq_counter_name"}),
        (queries.RECEIPT, {"key": KEY, "counter_id": 1}, {"PRIMARY"}),
        (queries.EXTENT, {"name": "plan-1"}, {"uq_counter_name", "ix_receipt_counter_id_created_at", "PRIMARY"}),
        (queries.RECEIPTS, {"counter_id": 1, "after": 7, "until": 900, "limit": 10}, {"ix_receipt_counter_id_first"}),
        (queries.HISTORY, SPAN, {"ix_receipt_counter_id_created_at", "PRIMARY"}),
        (commands.LOCK, {"name": "plan-1"}, {"uq_counter_name"}),
        (commands.DELETE, {"counter_id": 1}, {"PRIMARY"}),
        (commands.DELETE_HISTORY, {"counter_id": 1}, {"PRIMARY"}),
        (commands.DELETE_RECEIPTS, {"counter_id": 1}, BY_COUNTER),
        (verification.COUNTERS, {"after": 2_500, "limit": 100}, {"PRIMARY"}),
        (verification.COUNTER, {"counter_id": 1}, {"PRIMARY"}),
        (verification.ROLLED_UP, {"counter_id": 1}, {"PRIMARY"}),
        (verification.RECEIPTS, {"counter_id": 1, "after": 7, "last_key": KEY}, {"ix_receipt_counter_id_first"}),
        (roll_up.COUNTERS, {"after": 2_500}, {"PRIMARY"}),
        (roll_up.OLDEST, {"counter_id": 1}, {"ix_receipt_counter_id_first"}),
        (roll_up.NEXT_IN_TIME, {"counter_id": 1, "after": 7, "now": "2026-02-01"}, {"ix_receipt_counter_id_first"}),
        (roll_up.DELETE, {"counter_id": 1, "low": 1, "high": 9}, {"ix_receipt_counter_id_first"}),
        (roll_up.OWNERS, {"after": 7}, BY_COUNTER),
        (roll_up.OWNERS_OF_HISTORY, {"after": 7}, {"PRIMARY"}),
        (text(connections.LOOK_UP.format(id=1, keys=f"x'{KEY.hex()}',x'00'")), {}, {"PRIMARY"}),
    ],
    ids=lambda value: " ".join(str(value).split())[:60] if isinstance(value, ClauseElement) else "",
)
def test_a_query_reads_no_table_from_end_to_end(
    many: Database, statement: Any, parameters: dict[str, Any], indexes: set[str]
) -> None:
    compiled = statement.compile(dialect=mysql.dialect(paramstyle="pyformat"))
    with (
        many.server.connect(database=many.name, cursorclass=pymysql.cursors.DictCursor) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(f"EXPLAIN FORMAT=TRADITIONAL {compiled}", {**compiled.params, **parameters})
        plan = [row for row in cursor.fetchall() if row["table"] and not row["table"].startswith("<")]
    assert plan
    assert all(row["key"] in indexes and row["type"] not in {"ALL", "index"} for row in plan), plan
    assert not [row for row in plan if "filesort" in (row["Extra"] or "")], plan
