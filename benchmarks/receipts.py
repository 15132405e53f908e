"""A counter with many receipts."""

import re
import sys

from harness.databases import Database

_KEY = "UNHEX(CONCAT(LPAD(HEX(1700000000000 + seq), 12, '0'), '7', LEFT(SHA1(seq), 19)))"
_FILL = f"""INSERT INTO receipt
SELECT IF(seq & 1, {_KEY}, UNHEX(LEFT(SHA1(seq), 32))) AS k, 1, seq, seq, UTC_TIMESTAMP(6) - INTERVAL %s - seq SECOND
FROM seq_1_to_%s ORDER BY k"""  # noqa: S608  # a constant


def fill(database: Database, receipts: int) -> int:
    """Writes receipts of the page's counter, half under keys in order of time and half under random ones.

    Returns the table's size on the disk in bytes. MariaDB only: seq_1_to_… is of its sequence engine.
    """
    print(f"writing {receipts:,} receipts", file=sys.stderr, flush=True)
    with database.server.connect(database=database.name) as connection, connection.cursor() as cursor:
        cursor.execute("SET SESSION sql_log_bin = 0, SESSION sort_buffer_size = 1 << 30")
        cursor.execute("SHOW CREATE TABLE receipt")
        # Sorted by key, and without the other indexes, which are made afterwards: it would take hours otherwise.
        indexes = re.findall(r"KEY `(ix_\w+)` (\(.*\))", cursor.fetchone()[1])
        for name, _ in indexes:
            cursor.execute(f"DROP INDEX {name} ON receipt")
        cursor.execute(_FILL, (receipts, receipts))
        for name, columns in indexes:
            cursor.execute(f"CREATE INDEX {name} ON receipt {columns}")
        cursor.execute("UPDATE counter SET count = %s", (receipts,))
        cursor.execute("ANALYZE TABLE receipt")
    size = "SELECT file_size FROM information_schema.innodb_sys_tablespaces WHERE name = %s"
    return int(database.execute(size, f"{database.name}/receipt")[0][0])
