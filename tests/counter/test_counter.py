import asyncio
from collections.abc import Iterable
from functools import partial

import httpx
import pytest

from harness.databases import Database
from harness.load import get_at_once
from harness.processes import Hypercorn, wait_until
from tests.conftest import Start
from tests.counter.page import number_in


def number(answer: httpx.Response) -> int:
    """Returns the number that a hit was given."""
    assert answer.status_code == 200, answer.text
    return number_in(answer.text)


def row(database: Database) -> list[tuple[int, int]]:
    return [(int(id_), int(count)) for id_, count in database.execute("SELECT id, count FROM counter")]


async def hits(services: Iterable[Hypercorn], count: int) -> list[int]:
    """Sends `count` hits at once, each on a connection of its own, in turn to the services; returns their numbers."""
    answers = await get_at_once([("127.0.0.1", service.port) for service in services], count, connections=count)
    assert {status for status, _ in answers} == {200}
    return [number_in(body) for _, body in answers]


@pytest.mark.any_database
def test_the_first_visit_says_1_and_the_second_2_and_the_row_holds_2(database: Database, start: Start) -> None:
    service = start()
    first = httpx.get(f"{service.url}/")
    assert first.text == "<h1>Counter: 1</h1>"
    assert first.headers["content-type"] == "text/html; charset=utf-8"
    assert first.headers["cache-control"] == "no-store"
    assert httpx.get(f"{service.url}/").text == "<h1>Counter: 2</h1>"
    assert row(database) == [(1, 2)]


async def test_a_thousand_hits_at_once_on_several_workers_and_replicas_get_1_to_1000(
    database: Database, start: Start
) -> None:
    patient = {"DB_POOL_TIMEOUT": 24, "REQUEST_TIMEOUT": 25}
    services = [start(workers=3, **patient), start(workers=2, **patient)]
    numbers = await hits(services, 1000)
    assert sorted(numbers) == list(range(1, 1001))
    assert row(database) == [(1, 1000)]


async def test_many_first_hits_at_once_make_the_missing_row_once(database: Database, start: Start) -> None:
    database.execute("DELETE FROM counter")
    services = [start(workers=2), start(workers=2)]
    assert sorted(await hits(services, 100)) == list(range(1, 101))
    assert [count for _, count in row(database)] == [100]


@pytest.mark.any_database
def test_a_hit_after_another_was_answered_gets_a_higher_number(database: Database, start: Start) -> None:
    services = [start(workers=2), start()]
    numbers = [number(httpx.get(f"{services[i % 2].url}/")) for i in range(60)]
    assert numbers == list(range(1, 61))


@pytest.mark.any_database
@pytest.mark.parametrize("headers", [{"Sec-Purpose": "prefetch;prerender"}, {"Purpose": "prefetch"}])
def test_a_prefetch_does_not_count_and_is_not_kept_for_a_visit(
    database: Database, start: Start, headers: dict[str, str]
) -> None:
    service = start(workers=1)
    answer = httpx.get(f"{service.url}/", headers=headers)
    assert answer.status_code == 403  # which is no failure of ours, as the alerts count them
    assert answer.headers["cache-control"] == "no-store"
    assert row(database) == [(1, 0)]


@pytest.mark.any_database
def test_head_and_other_methods_do_not_count(database: Database, start: Start) -> None:
    service = start(workers=1)
    head = httpx.head(f"{service.url}/")
    assert (head.status_code, head.headers["cache-control"], head.text) == (200, "no-store", "")
    assert httpx.post(f"{service.url}/").status_code == 405
    assert httpx.options(f"{service.url}/").status_code == 200
    assert row(database) == [(1, 0)]


def test_what_is_answered_without_the_table_or_behind_a_lock_is_not_counted(database: Database, start: Start) -> None:
    service = start(workers=1, DB_LOCK_TIMEOUT=1, DB_POOL_TIMEOUT=1)
    with database.server.connect(database=database.name) as holder:
        holder.begin()
        holder.cursor().execute("SELECT * FROM counter FOR UPDATE")
        assert httpx.get(f"{service.url}/").status_code == 503
    assert number(httpx.get(f"{service.url}/")) == 1
    database.execute("RENAME TABLE counter TO counter_away")
    assert httpx.get(f"{service.url}/").status_code == 503
    database.execute("RENAME TABLE counter_away TO counter")
    assert number(httpx.get(f"{service.url}/")) == 2


async def test_hits_whose_database_connections_are_killed_are_never_counted_or_given_twice(
    database: Database, start: Start
) -> None:
    service = start(workers=2, DB_POOL_SIZE=4)
    sent = asyncio.create_task(get_at_once([("127.0.0.1", service.port)], 2000, connections=16))

    def moved_on(before: int) -> bool:
        return sent.done() or row(database)[0][1] > before

    while not sent.done():
        ((_, before),) = row(database)
        await asyncio.to_thread(database.kill_connections)
        await asyncio.to_thread(wait_until, partial(moved_on, before))
    answers = sent.result()
    assert {status for status, _ in answers} <= {200, 503, 504}
    given = [number_in(body) for status, body in answers if status == 200]
    unknown = sum(status == 504 for status, _ in answers)
    assert len(given) == len(set(given))
    ((_, count),) = row(database)
    assert len(given) <= count <= len(given) + unknown


@pytest.mark.any_database
def test_nothing_is_counted_on_a_server_that_may_forget_it(database: Database, start: Start) -> None:
    if not database.server.is_root:
        pytest.skip("needs MYSQL_ROOT_PASSWORD")
    service = start(workers=1)
    database.server.execute("SET GLOBAL sync_binlog = 0")
    try:
        assert httpx.get(f"{service.url}/").status_code == 503
    finally:
        database.server.execute("SET GLOBAL sync_binlog = 1")
    assert number(httpx.get(f"{service.url}/")) == 1
