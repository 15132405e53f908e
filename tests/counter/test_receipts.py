import asyncio
import subprocess
import sys
from datetime import datetime, timedelta
from functools import partial

import httpx
import pytest

from harness.databases import Database
from harness.load import get_at_once
from harness.processes import wait_until
from service.counter.roll_up import number_due
from service.platform.settings import ROOT
from tests.conftest import Start
from tests.counter.audit import audit

QUART = [sys.executable, "-m", "quart", "--app", "service.asgi:app"]


def verify(environment: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    return receipts(environment, "verify", *arguments)


def receipts(environment: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*QUART, "receipts", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


async def test_the_books_are_right_while_the_service_counts(
    database: Database, start: Start, environment: dict[str, str]
) -> None:
    service = start(workers=2)
    sent = asyncio.create_task(get_at_once([("127.0.0.1", service.port)], 2000, connections=32))
    verified = await asyncio.to_thread(verify, environment)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    await sent
    verified = await asyncio.to_thread(verify, environment, "--verbose")
    assert verified.returncode == 0
    assert "page: 2000, right" in verified.stdout
    assert audit(database) == 2000


@pytest.mark.any_database
@pytest.mark.parametrize(
    ("damage", "finding"),
    [
        ("DELETE FROM receipt WHERE first = 3", "page: gap: after 2 comes a receipt of 5 to 6"),
        ("UPDATE receipt SET first = 2 WHERE first = 3", "page: overlap: after 2 comes a receipt of 2 to 4"),
        ("UPDATE counter SET count = 9", "page: the count is 9 and its receipts end with 6"),
        ("INSERT INTO history VALUES (1, '2026-01-01', 2)", "page: overlap: after 2 comes a receipt of 1 to 2"),
    ],
)
def test_books_that_are_wrong_are_found(
    database: Database, environment: dict[str, str], damage: str, finding: str
) -> None:
    for first in (1, 3, 5):
        database.execute("INSERT INTO receipt VALUES (%s, 1, %s, %s, NOW(6))", bytes([first] * 16), first, first + 1)
    database.execute("UPDATE counter SET count = 6")
    assert verify(environment).stdout == "1 counters, 3 receipts read, 0 counters wrong\n"
    database.execute(damage)
    verified = verify(environment)
    assert verified.returncode == 1
    assert finding in verified.stdout


@pytest.mark.any_database
def test_a_database_that_is_away_is_said(database: Database, environment: dict[str, str]) -> None:
    verified = verify({**environment, "DB_PORT": "1"})
    assert (verified.returncode, "Traceback" in verified.stderr) == (69, False)
    assert "cannot be used" in verified.stderr


NOW = datetime(2026, 1, 10)  # noqa: DTZ001  # the database's are UTC and have no zone
YOUNG, OLD, OLDER, FUTURE = (NOW + timedelta(days=days) for days in (-0.5, -2, -3, 9))


@pytest.mark.parametrize(
    ("times", "due"),
    [
        ([], 0),
        ([YOUNG], 0),
        ([OLD, OLD, YOUNG], 2),
        ([YOUNG, OLD], 0),  # the clock had gone back
        ([OLD, YOUNG, OLDER], 1),
        ([OLD, FUTURE, OLD, YOUNG], 3),  # it had jumped ahead, once
        ([FUTURE, FUTURE], 0),
        ([OLD, FUTURE, YOUNG], 1),
        ([NOW - timedelta(days=1)], 0),
    ],
)
def test_receipts_go_when_they_and_all_before_them_are_old(times: list[datetime], due: int) -> None:
    assert number_due(times, NOW, NOW - timedelta(days=1)) == due


def fill(database: Database, count: int, age: str) -> None:
    """Writes `count` receipts of two numbers each, so many days old, one after the other."""
    ((last,),) = database.execute("SELECT count FROM counter")
    rows = ",".join(
        f"(x'{(last + 2 * i):032x}', 1, {last + 2 * i + 1}, {last + 2 * i + 2}, UTC_TIMESTAMP(6) + INTERVAL {age} DAY)"
        for i in range(count)
    )
    database.execute(f"INSERT INTO receipt VALUES {rows}")
    database.execute("UPDATE counter SET count = %s", last + 2 * count)


def test_old_receipts_become_history_and_the_books_stay_right(database: Database, environment: dict[str, str]) -> None:
    fill(database, 2500, "-3")
    fill(database, 10, "-0.1")
    ended = receipts(environment, "roll-up")
    assert ended.returncode == 0, ended.stderr
    assert "page: 2500 receipts" in ended.stdout
    assert database.execute("SELECT COUNT(*), MIN(first) FROM receipt") == [(10, 5001)]
    assert database.execute("SELECT SUM(hits) FROM history") == [(5000,)]
    assert audit(database) == 5020
    assert verify(environment).returncode == 0
    assert "0 receipts rolled up" in receipts(environment, "roll-up").stdout


@pytest.mark.any_database
def test_the_workers_roll_up_by_themselves_while_they_count(database: Database, start: Start) -> None:
    fill(database, 2500, "-3")
    fill(database, 1, "-0.1")  # the newest of all is not rolled up
    service = start(workers=2, ROLL_UP_SCHEDULE="* * * * * *")
    wait_until(lambda: httpx.get(f"{service.url}/").is_success and service.logged("2500 receipts rolled up"))
    assert audit(database) > 5002
    assert database.execute("SELECT SUM(hits) FROM history") == [(5000,)]


@pytest.mark.any_database
def test_a_clock_that_jumped_ahead_once_does_not_stop_the_roll_up(
    database: Database, environment: dict[str, str]
) -> None:
    fill(database, 2200, "3000")
    fill(database, 1, "-2")
    fill(database, 5, "-0.1")
    assert "page: 2201 receipts" in receipts(environment, "roll-up").stdout
    assert audit(database) == 2 * 2206


@pytest.mark.any_database
def test_the_newest_receipt_is_kept_however_old_it_is(database: Database, environment: dict[str, str]) -> None:
    fill(database, 1000, "-3")
    receipts(environment, "roll-up")
    assert database.execute("SELECT COUNT(*) FROM receipt") == [(1,)]
    assert audit(database) == 2000


@pytest.mark.any_database
def test_roll_ups_that_are_killed_and_two_at_once_keep_the_books_right(
    database: Database, environment: dict[str, str]
) -> None:
    fill(database, 4000, "-3")

    def left() -> int:
        return int(database.execute("SELECT COUNT(*) FROM receipt")[0][0])

    while left() > 1:
        fewer_than = max(left(), 2)
        both = [subprocess.Popen([*QUART, "receipts", "roll-up"], cwd=ROOT, env=environment) for _ in range(2)]
        wait_until(partial(lambda limit: left() < limit, fewer_than))
        for process in both:
            process.kill()
            process.wait(30)
        assert audit(database) == 8000


@pytest.mark.any_database
async def test_hits_go_on_while_receipts_are_rolled_up(
    database: Database, start: Start, environment: dict[str, str]
) -> None:
    fill(database, 5000, "-3")
    service = start()
    sent = asyncio.create_task(get_at_once([("127.0.0.1", service.port)], 1000, connections=16))
    ended = await asyncio.to_thread(receipts, environment, "roll-up")
    assert "page: 5000 receipts" in ended.stdout
    assert {status for status, _ in await sent} == {200}
    assert audit(database) == 11_000


def test_what_a_deleted_counter_has_left_goes_and_nothing_else(database: Database, environment: dict[str, str]) -> None:
    fill(database, 10, "-0.1")
    rows = ",".join(f"(x'{i:032x}', 7, {i}, {i}, NOW())" for i in range(1_000_000, 1_010_050))
    database.execute(f"INSERT INTO receipt VALUES {rows}")
    database.execute("INSERT INTO history VALUES (7, '2026-01-01', 3), (8, '2026-01-01', 3)")
    assert ", 10052 of deleted counters deleted," in receipts(environment, "roll-up").stdout
    assert database.execute("SELECT DISTINCT counter_id FROM receipt") == [(1,)]
    assert audit(database) == 20


def test_an_overlap_at_the_end_of_a_page_is_found(database: Database, environment: dict[str, str]) -> None:
    fill(database, 10_000, "-0.1")
    database.execute("INSERT INTO receipt VALUES (%s, 1, 19999, 20000, NOW(6))", b"\xff" * 16)
    assert "page: overlap: after 20000 comes a receipt of 19999" in verify(environment).stdout


async def test_a_counter_that_is_deleted_while_it_is_rolled_up_leaves_nothing(
    database: Database, start: Start, environment: dict[str, str]
) -> None:
    fill(database, 20_000, "-3")
    service = start(workers=1, API_TOKENS_REQUIRED="false")
    rolling = asyncio.create_task(asyncio.to_thread(receipts, environment, "roll-up"))
    await asyncio.to_thread(wait_until, lambda: database.execute("SELECT 1 FROM history"))
    deleted = await asyncio.to_thread(httpx.delete, f"{service.url}/counters/page")
    assert deleted.status_code == 204
    ended = await rolling
    assert ended.returncode == 0, ended.stderr
    receipts(environment, "roll-up")
    assert not database.execute("SELECT 1 FROM receipt UNION SELECT 1 FROM history")
