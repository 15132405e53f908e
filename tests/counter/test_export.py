"""Exports: whole and in order, in bounded memory, and over when their client leaves."""

import csv
import json
import socket
import uuid
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from harness.databases import Database
from harness.processes import is_ok, wait_until
from harness.proxy import Cut, proxy
from service.counter import export
from tests.conftest import MakeApp, Start
from tests.counter.test_api import books, client, name, problem, service

__all__ = ["books", "client", "name", "service"]

pytestmark = pytest.mark.any_database

MANY = 200_000
"""Receipts of an export that fills all buffers on the way: 17 MB."""


def fill(database: Database, name: str, receipts: int) -> int:
    """Makes a counter with that many receipts, a second apart; returns its id."""
    database.execute("INSERT INTO counter (name, count) VALUES (%s, %s)", name, receipts)
    ((counter_id,),) = database.execute("SELECT id FROM counter WHERE name = %s", name)
    for first in range(1, receipts + 1, 10_000):
        last = min(first + 9_999, receipts)
        rows = ",".join(
            f"(x'{counter_id:016x}{i:016x}', {counter_id}, {i}, {i}, '2026-03-01' + INTERVAL {i} SECOND)"
            for i in range(first, last + 1)
        )
        database.execute(f"INSERT INTO receipt VALUES {rows}")
    return int(counter_id)


def lines(answer: httpx.Response) -> list[dict[str, object]]:
    assert answer.headers["content-type"] == "application/x-ndjson; charset=utf-8", answer.text
    return [json.loads(line) for line in answer.text.splitlines()]


def test_receipts_are_exported_whole_and_in_order(client: httpx.Client, books: Database, name: str) -> None:
    counter_id = fill(books, name, 2 * export.PAGE + 1)
    exported = lines(client.get(f"/counters/{name}/receipts.ndjson"))
    assert [one["first"] for one in exported] == list(range(1, 2 * export.PAGE + 2))
    assert exported[0] == {
        "receipt": f"{counter_id:016x}{1:016x}",
        "first": 1,
        "last": 1,
        "created": "2026-03-01T00:00:01Z",
    }
    assert client.get(f"/counters/{name}/receipts/{exported[7]['receipt']}").json()["first"] == 8
    as_csv = client.get(f"/counters/{name}/receipts.csv")
    assert as_csv.headers["content-disposition"] == f'attachment; filename="{name}-receipts.csv"'
    rows = list(csv.DictReader(as_csv.text.splitlines()))
    assert rows == [{column: str(value) for column, value in one.items()} for one in exported]


def test_history_is_exported_from_the_first_hit_on_what_is_rolled_up_and_what_is_not(
    client: httpx.Client, books: Database, name: str
) -> None:
    counter_id = fill(books, name, 3_700)
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0, tzinfo=None)
    old = now - timedelta(days=3_653)  # ten years
    hours = [(old, 5), (datetime(2026, 3, 1), 20)]  # noqa: DTZ001  # as the database has it
    for hour, hits in hours:
        books.execute("INSERT INTO history VALUES (%s, %s, %s)", counter_id, hour, hits)
    ahead = now + timedelta(days=100)  # the database's clock was ahead, and was set right
    books.execute("INSERT INTO receipt VALUES (%s, %s, 3701, 3707, %s)", uuid.uuid4().bytes, counter_id, ahead)
    expected = [
        (f"{old:%Y-%m-%dT%H}:00:00Z", 5),
        ("2026-03-01T00:00:00Z", 3_619),
        ("2026-03-01T01:00:00Z", 101),
        (f"{ahead:%Y-%m-%dT%H}:00:00Z", 7),
    ]
    exported = lines(client.get(f"/counters/{name}/history.ndjson"))
    assert [(one["time"], one["hits"]) for one in exported] == expected
    as_csv = client.get(f"/counters/{name}/history.csv").text
    assert as_csv.splitlines() == ["time,hits", *(f"{time},{hits}" for time, hits in expected)]


def test_a_counter_without_hits_has_an_empty_export_and_none_has_none(client: httpx.Client, name: str) -> None:
    client.put(f"/counters/{name}", json={"start": 7})
    for what, head in ("receipts", "receipt,first,last,created\r\n"), ("history", "time,hits\r\n"):
        assert client.get(f"/counters/{name}/{what}.csv").text == head
        assert client.get(f"/counters/{name}/{what}.ndjson").text == ""
        assert client.head(f"/counters/{name}/{what}.csv").headers["content-type"] == "text/csv; charset=utf-8"
        assert problem(client.get(f"/counters/none/{what}.csv")) == (404, "no-such-counter")
        assert problem(client.get(f"/counters/{name}/{what}.xml")) == (400, "malformed-parameter")


def test_a_client_that_is_slow_or_leaves_costs_no_connection_and_no_further_page(
    database: Database, start: Start
) -> None:
    fill(database, "many", MANY)
    service = start(DB_POOL_SIZE=1, DB_POOL_TIMEOUT=5)

    def rows_read() -> int:
        return int(database.execute("SHOW GLOBAL STATUS LIKE 'Handler_read_next'")[0][1])

    def is_quiet() -> bool:
        seen = rows_read()
        for _ in range(20):  # in whose time the worker would read on
            is_ok(service.port, "/livez")
        return rows_read() == seen

    before = rows_read()
    with httpx.Client(base_url=service.url) as client:  # whose connection stays open
        head = client.head("/counters/many/receipts.csv")
        assert (head.status_code, head.headers["content-type"]) == (200, "text/csv; charset=utf-8")
        wait_until(is_quiet)
        assert rows_read() - before < export.PAGE
    before = rows_read()
    with socket.create_connection(("127.0.0.1", service.port)) as slow:
        slow.sendall(b"GET /counters/many/receipts.ndjson HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert slow.recv(1_000).startswith(b"HTTP/1.1 200")
        wait_until(is_quiet)
        assert rows_read() - before < MANY // 2  # it waits for the client
        assert httpx.get(f"{service.url}/counters/many").json()["value"] == MANY
        assert not database.execute(
            "SELECT 1 FROM information_schema.innodb_trx WHERE trx_mysql_thread_id != CONNECTION_ID()"
        )
    wait_until(is_quiet)
    assert rows_read() - before < MANY // 2
    assert "Traceback" not in service.log.read_text()


async def test_an_export_that_loses_the_database_or_the_right_to_its_counter_ends_without_an_end(
    database: Database, start: Start, make_app: MakeApp
) -> None:
    counter_id = fill(database, "many", MANY)
    async with proxy(database.server.port) as here:
        service = start(ready=False, DB_PORT=here.port)
        here.cuts = []

        def lose_the_database() -> None:
            here.cuts = [Cut("FROM receipt FORCE INDEX")]

        def make_it_private() -> None:
            here.cuts = []
            database.execute("UPDATE counter SET is_private = 1 WHERE id = %s", counter_id)

        def delete_the_counter() -> None:
            for table, column in ("receipt", "counter_id"), ("counter", "id"):
                database.execute(f"DELETE FROM {table} WHERE {column} = %s", counter_id)

        async with httpx.AsyncClient() as client:
            for do in lose_the_database, make_it_private, delete_the_counter:
                database.execute("UPDATE counter SET is_private = 0 WHERE id = %s", counter_id)
                with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
                    async with client.stream("GET", f"{service.url}/counters/many/receipts.csv") as answer:
                        lines = answer.aiter_lines()
                        await anext(lines)
                        do()
                        async for _ in lines:
                            pass
    assert "an export of many ends before its end: it was deleted, or may no longer be read" in service.log.read_text()
    assert "Traceback" not in service.log.read_text()
