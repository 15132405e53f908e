"""The history of a counter: what is rolled up and what is not yet, together."""

from datetime import UTC, datetime, timedelta

import httpx
import pytest

from harness.databases import Database
from tests.counter.test_api import books, client, name, problem, service

__all__ = ["books", "client", "name", "service"]

pytestmark = pytest.mark.any_database

DAY = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def counter_id(client: httpx.Client, books: Database, name: str) -> int:
    """A counter with receipts at 00:00, 00:59:59.999999, 01:00 and the next day, and history before and within."""
    client.put(f"/counters/{name}")
    ((found,),) = books.execute("SELECT id FROM counter WHERE name = %s", name)
    rows = [
        ("2026-03-01 00:00:00", 1, 4),
        ("2026-03-01 00:59:59.999999", 5, 5),
        ("2026-03-01 01:00:00", 6, 6),
        ("2026-03-02 01:30:00", 7, 9),
    ]
    for i, (time, first, last) in enumerate(rows):
        books.execute(
            "INSERT INTO receipt VALUES (UNHEX(LEFT(SHA2(%s, 256), 32)), %s, %s, %s, %s)",
            f"{name}{i}", found, first, last, time,
        )  # fmt: skip
    for hour, hits in ("2026-02-28 23:00:00", 10), ("2026-03-01 01:00:00", 20):
        books.execute("INSERT INTO history VALUES (%s, %s, %s)", found, hour, hits)
    return int(found)


def history(client: httpx.Client, name: str, **parameters: str) -> dict[str, int]:
    """Returns the hits by the beginning of their hour or day."""
    answer = client.get(f"/counters/{name}/history", params=parameters)
    assert answer.status_code == 200, answer.text
    return {bucket["time"]: bucket["hits"] for bucket in answer.json()["hits"]}


def test_history_adds_receipts_and_what_is_rolled_up(client: httpx.Client, counter_id: int, name: str) -> None:
    span = {"from": "2026-02-28T00:00:00Z", "to": "2026-03-03T00:00:00Z"}
    assert history(client, name, **span) == {
        "2026-02-28T23:00:00Z": 10,
        "2026-03-01T00:00:00Z": 5,
        "2026-03-01T01:00:00Z": 21,
        "2026-03-02T01:00:00Z": 3,
    }
    assert history(client, name, by="day", **span) == {
        "2026-02-28T00:00:00Z": 10,
        "2026-03-01T00:00:00Z": 26,
        "2026-03-02T00:00:00Z": 3,
    }


def test_a_span_is_widened_to_whole_hours_and_its_end_is_left_out(
    client: httpx.Client, counter_id: int, name: str
) -> None:
    assert history(client, name, **{"from": "2026-03-01T00:30:00Z", "to": "2026-03-01T01:00:00Z"}) == {
        "2026-03-01T00:00:00Z": 5
    }
    assert history(client, name, **{"from": "2026-03-01T02:59:00+02:00", "to": "2026-03-01T03:00:01+02:00"}) == {
        "2026-03-01T00:00:00Z": 5,
        "2026-03-01T01:00:00Z": 21,
    }


def test_without_a_span_it_is_that_of_the_last_day(
    client: httpx.Client, books: Database, counter_id: int, name: str
) -> None:
    client.post(f"/counters/{name}/hits", json={"amount": 7})
    long_ago = (
        "INSERT INTO history VALUES (%s, DATE_FORMAT(UTC_TIMESTAMP() - INTERVAL %s HOUR, '%%Y-%%m-%%d %%H:00'), 1)"
    )
    for hours in 30, 400:
        books.execute(long_ago, counter_id, hours)
    assert list(history(client, name).values()) == [7]


@pytest.mark.parametrize(
    "query",
    [
        "from=2026-03-01T00:00:00",
        "from=2026-03-01",
        "from=yesterday",
        "from=",
        "to=2026-13-01T00:00:00Z",
        "to=2026-03-01T00:00:00+01:00",  # its + is a space
        "from=2026-03-01T00:00:00Z&to=2026-03-01T00:00:00Z",
        "from=2026-03-02T00:00:00Z&to=2026-03-01T00:00:00Z",
        "from=2026-03-01T00:00:00Z&to=2026-04-01T00:00:01Z",
        "by=day&from=2020-01-01T00:00:00Z&to=2026-01-01T00:00:00Z",
        "by=day&from=2016-01-01T00:00:00Z&to=2026-01-01T00:00:00Z",
        "by=week",
        "by=",
        "to=0001-01-01T00:00:00Z",
        "from=1969-12-31T22:00:00Z&to=1969-12-31T23:00:00Z",
        "to=9999-12-31T23:59:59Z",
        "from=%F0%9F%A7%AE%00",
        "from=" + "9" * 5000,
    ],
)
def test_a_malformed_span_is_refused(client: httpx.Client, name: str, query: str) -> None:
    assert problem(client.get(f"/counters/{name}/history?{query}")) == (400, "malformed-parameter")


def test_the_longest_spans_are_answered(client: httpx.Client, counter_id: int, name: str) -> None:
    for by, days in ("hour", 31), ("day", 3 * 365 + 1):
        span = {"from": f"{DAY - timedelta(days=days):%Y-%m-%dT%H:%M:%SZ}", "to": f"{DAY:%Y-%m-%dT%H:%M:%SZ}"}
        assert sum(history(client, name, by=by, **span).values()) == 10


def test_history_of_a_counter_without_hits_is_empty(client: httpx.Client, name: str) -> None:
    client.put(f"/counters/{name}", json={"start": 7})
    for by in "hour", "day":
        assert history(client, name, by=by) == {}


def test_history_of_no_counter_is_404(client: httpx.Client, name: str) -> None:
    assert problem(client.get(f"/counters/{name}/history")) == (404, "no-such-counter")
