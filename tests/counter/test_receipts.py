import asyncio
import subprocess
import sys

import pytest

from service.settings import ROOT
from tests.conftest import Start
from tests.counter.audit import audit
from tests.databases import Database
from tests.load import get_at_once


def verify(environment: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "quart", "--app", "service.asgi:app", "receipts", "verify", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


async def test_the_books_are_right_while_the_service_counts(
    database: Database, start: Start, environment: dict[str, str]
) -> None:
    service = start()
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
