"""A large table is migrated while hits go on: none fails. The long form prints the p99 of the hits, too."""

import asyncio
import statistics
import time
from collections import Counter
from pathlib import Path

import pytest

from harness.databases import Database
from harness.load import get
from tests.conftest import Start
from tests.counter.page import number_in
from tests.counter.test_receipts import verify
from tests.migrations.revisions import copy_migrations, write_revision
from tests.migrations.test_migrations import alembic

CLIENTS = 16
QUIET = 3.0
"""Seconds of hits beside no migration, to compare with."""

REVISIONS = {
    "0100": "ALTER TABLE receipt ADD COLUMN origin VARCHAR(20) NULL, ALGORITHM=INSTANT",
    "0101": "ALTER TABLE receipt ADD INDEX ix_receipt_last (last), ALGORITHM=INPLACE, LOCK=NONE",
    "0102": "ALTER TABLE receipt FORCE, ALGORITHM=INPLACE, LOCK=NONE",
}
"""The first changes the table's definition, the second reads each row, the third writes each row anew."""

pytestmark = pytest.mark.long


def fill(database: Database, rows: int) -> None:
    """Gives the counter as many receipts, each of one number."""
    database.execute("INSERT INTO receipt VALUES (UNHEX(LPAD('1', 32, '0')), 1, 1, 1, NOW(6))")
    there = 1
    while there < rows:
        database.execute(
            "INSERT INTO receipt SELECT UNHEX(LPAD(HEX(first + %s), 32, '0')), 1, first + %s, last + %s, created_at"
            " FROM receipt WHERE first <= %s",
            *(there, there, there, rows - there),
        )
        there = min(2 * there, rows)
    database.execute("UPDATE counter SET count = %s", rows)


class Clients:
    """Clients that hit one after the other; none sends a hit again. Times are in seconds."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.answers: list[tuple[int, str]] = []
        self.times: list[float] = []

    async def run(self, until: "asyncio.Task[object]") -> None:
        """Sends hits until the task has ended."""
        await asyncio.gather(*(self._hit(until) for _ in range(CLIENTS)))

    async def _hit(self, until: "asyncio.Task[object]") -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        while not until.done():
            sent = time.perf_counter()
            self.answers.append(await get(reader, writer, "127.0.0.1"))
            self.times.append(time.perf_counter() - sent)
        writer.close()

    def described(self) -> str:
        """Returns how many hits there were and how long they took."""
        p50, p99 = (statistics.quantiles(self.times, n=100)[percent - 1] * 1000 for percent in (50, 99))
        longest = max(self.times) * 1000
        return f"{len(self.times)} hits, p50 {p50:.0f} ms, p99 {p99:.0f} ms, the longest {longest:.0f} ms"


async def migrated_online(rows: int, database: Database, environment: dict[str, str], start: Start, copy: Path) -> None:
    fill(database, rows)
    copy_migrations(copy)
    service = start()
    everything: list[tuple[int, str]] = []
    quiet = Clients(service.port)
    await quiet.run(asyncio.create_task(asyncio.sleep(QUIET)))
    everything += quiet.answers
    print(f"\n{rows} rows, before: {quiet.described()}")
    after: dict[str, str] = {}
    for number, statement in REVISIONS.items():
        write_revision(copy, number, f'op.execute("{statement}")', **after)
        after = {"after": number}
        job = asyncio.create_task(asyncio.to_thread(alembic, environment, "upgrade", "head", cwd=copy, limit=3600))
        clients = Clients(service.port)
        began = time.perf_counter()
        await clients.run(job)
        ended = await job
        assert ended.returncode == 0, ended.stderr
        everything += clients.answers
        print(f"{time.perf_counter() - began:.0f} s, {statement}: {clients.described()}")
    assert Counter(status for status, _ in everything) == {200: len(everything)}
    numbers = sorted(number_in(body) for _, body in everything)
    assert numbers == list(range(rows + 1, rows + 1 + len(numbers)))


async def test_no_hit_fails_while_a_table_is_migrated(
    database: Database, environment: dict[str, str], start: Start, tmp_path: Path
) -> None:
    await migrated_online(20_000, database, environment, start, tmp_path / "copy")
    assert verify(environment).returncode == 0


@pytest.mark.rehearsal
@pytest.mark.any_database
async def test_no_hit_fails_while_ten_million_rows_are_migrated(
    database: Database, environment: dict[str, str], start: Start, tmp_path: Path
) -> None:
    """`./run rehearse tests/counter/test_online_migration.py -s` shows how long hits took."""
    await migrated_online(10_000_000, database, environment, start, tmp_path / "copy")
