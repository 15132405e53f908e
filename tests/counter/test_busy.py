"""G6 where the database is busy, full or read-only, or a worker ends: no 500, and what gets a 503 is not counted."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pymysql
import pytest

from harness.databases import Database, make_database, private_mariadb
from harness.processes import Hypercorn, free_port, hypercorn, is_ready, wait_until
from tests.conftest import SECRET_KEY, Start, migrate
from tests.counter.audit import audit
from tests.counter.page import number_in

PATIENT = {"DB_LOCK_TIMEOUT": 20, "DB_STATEMENT_TIMEOUT": 22, "DB_POOL_TIMEOUT": 23, "REQUEST_TIMEOUT": 25}
HASTY = {"DB_LOCK_TIMEOUT": 1, "DB_STATEMENT_TIMEOUT": 1.5, "DB_POOL_TIMEOUT": 1}
OPEN = {"API_TOKENS_REQUIRED": "false"}


@contextmanager
def held(database: Database) -> Iterator[None]:
    """A stranger's transaction holds the rows of all counters."""
    with database.server.connect(database=database.name) as stranger:
        stranger.begin()
        stranger.cursor().execute("SELECT * FROM counter FOR UPDATE")
        yield


def blocked(database: Database) -> int:
    """Returns how many transactions wait for a lock."""
    # innodb_trx shows what it last showed as long as it is asked ten times a second or more.
    ((_, count),) = database.server.execute("SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'")
    return int(count)


async def until(condition: Callable[[], object]) -> None:
    await asyncio.to_thread(wait_until, condition)


@asynccontextmanager
async def clients(service: Hypercorn) -> AsyncIterator[httpx.AsyncClient]:
    """As many connections as there are requests."""
    limits = httpx.Limits(max_connections=None)
    headers = {"Accept": "application/json"}
    async with httpx.AsyncClient(base_url=service.url, limits=limits, headers=headers, timeout=40) as client:
        yield client


def numbers_in(answers: Sequence[httpx.Response]) -> list[int]:
    return [number_in(answer.text) for answer in answers]


def assert_refused(answer: httpx.Response) -> None:
    assert answer.status_code == 503, answer.text
    assert answer.json()["type"] == "/problems/unavailable"
    assert int(answer.headers["retry-after"]) > 0


@pytest.mark.any_database
@pytest.mark.parametrize(
    ("bound", "paths"),
    [("LANE_QUEUE_SIZE", ["/counters/page/hits"]), ("WORKER_QUEUE_SIZE", ["/counters/page/hits", "/counters/b/hits"])],
)
async def test_what_finds_the_queue_full_is_refused_at_once(
    database: Database, start: Start, bound: str, paths: list[str]
) -> None:
    database.execute("INSERT INTO counter (name, count) VALUES ('b', 0)")
    service = start(workers=1, **PATIENT, **OPEN, **{bound: 4})
    async with clients(service) as client:
        with held(database):
            sent = [asyncio.create_task(client.post(path)) for path in paths]
            await until(lambda: blocked(database) == len(paths))
            sent += [asyncio.create_task(client.post(paths[i % len(paths)])) for i in range(6)]
            await until(lambda: sum(task.done() for task in sent) == 2)
            early = [task for task in sent if task.done()]
            for task in early:
                assert_refused(task.result())
        numbers = [answer.json()["number"] for answer in await asyncio.gather(*(set(sent) - set(early)))]
    assert sorted(numbers) == sorted(n for name in ("page", "b") for n in range(1, audit(database, name) + 1))
    assert len(numbers) == len(paths) + 4


@pytest.mark.any_database
async def test_a_hit_whose_transaction_cannot_begin_in_time_is_refused_and_not_counted(
    database: Database, start: Start
) -> None:
    service = start(workers=1, **HASTY)
    async with clients(service) as client:
        with held(database):
            sent = [asyncio.create_task(client.get("/"))]
            await until(lambda: blocked(database))
            sent += [asyncio.create_task(client.get("/")) for _ in range(20)]
            for answer in await asyncio.gather(*sent):
                assert_refused(answer)
        assert number_in((await client.get("/")).text) == 1
    assert audit(database) == 1


@pytest.mark.any_database
async def test_a_lock_that_outlasts_the_lock_time_out_but_not_the_clients_patience_costs_nothing(
    database: Database, start: Start
) -> None:
    service = start(workers=1, **{**PATIENT, "DB_LOCK_TIMEOUT": 1})

    async with clients(service) as client:
        with held(database):
            sent = [asyncio.create_task(client.get("/")) for _ in range(10)]
            await until(lambda: blocked(database))
            await until(lambda: not blocked(database))
            await until(lambda: blocked(database))
        assert sorted(numbers_in(await asyncio.gather(*sent))) == list(range(1, 11))
    assert audit(database) == 10


@pytest.mark.any_database
async def test_a_hit_that_was_answered_504_has_one_number_when_its_key_is_sent_again(
    database: Database, start: Start
) -> None:
    service = start(workers=1, **{**HASTY, "DB_POOL_TIMEOUT": 20, "REQUEST_TIMEOUT": 2})
    key = {"Idempotency-Key": "k"}
    async with clients(service) as client:
        with held(database):
            answer = await client.get("/", headers=key)
            assert (answer.status_code, answer.json()["type"]) == (504, "/problems/gateway-timeout")
        number = number_in((await client.get("/", headers=key)).text)
        assert number_in((await client.get("/", headers=key)).text) == number
    assert audit(database) == number == 1


@pytest.mark.any_database
async def test_a_client_who_leaves_takes_no_number_from_those_who_share_the_transaction(
    database: Database, start: Start
) -> None:
    service = start(workers=1, **PATIENT)
    async with clients(service) as client:
        with held(database):
            reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
            writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            await until(lambda: blocked(database))
            sent = [asyncio.create_task(client.get("/")) for _ in range(5)]
            writer.close()
            await writer.wait_closed()
            assert await reader.read() == b""
        assert sorted(numbers_in(await asyncio.gather(*sent))) == [2, 3, 4, 5, 6]
    assert audit(database) == 6


@pytest.mark.parametrize("request_line", ["GET /", "DELETE /counters/b", "POST /counters/b/hits", "PUT /counters/new"])
@pytest.mark.parametrize(
    ("begun", "broken"),
    [("Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", "ZZ\r\n"), ("Content-Length: 9\r\n\r\nab", "")],
    ids=["malformed chunk", "cut off"],
)
async def test_a_request_whose_body_is_broken_changes_nothing(
    database: Database, start: Start, request_line: str, begun: str, broken: str
) -> None:
    database.execute("INSERT INTO counter (name, count) VALUES ('b', 0)")
    service = start(workers=1, **OPEN)
    async with clients(service) as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(f"{request_line} HTTP/1.1\r\nHost: a\r\n{begun}".encode())
        await writer.drain()
        # The worker has one lane for the page: these are counted after what it took before them.
        assert numbers_in([await client.get("/") for _ in range(3)]) == [1, 2, 3]
        writer.write(broken.encode())
        writer.write_eof()
        answer = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        assert answer == b"" or answer.split()[1] == b"400", answer
        assert number_in((await client.get("/")).text) == 4
    assert database.execute("SELECT name, count FROM counter ORDER BY id") == [("page", 4), ("b", 0)]
    audit(database)


async def test_a_deadlock_that_the_lane_loses_is_rerun(database: Database, start: Start) -> None:
    service = start(workers=1, **PATIENT, **OPEN)
    async with clients(service) as client:
        await client.get("/", headers={"Idempotency-Key": "first"})
        (key,) = (row[0] for row in database.execute("SELECT `key` FROM receipt"))
        database.execute("DELETE FROM receipt")
        database.execute("UPDATE counter SET count = 0")
        with database.server.connect(database=database.name) as stranger:
            stranger.begin()
            # The weight of a transaction is what it has changed, and the lighter one is rolled back.
            rows = ",".join(f"(x'{i:032x}', 99, {i}, {i}, NOW())" for i in range(1000))
            stranger.cursor().execute(f"INSERT INTO receipt VALUES {rows}, (%s, 99, 1000, 1000, NOW())", (key,))
            sent = [asyncio.create_task(client.get("/", headers={"Idempotency-Key": "first"}))]
            await until(lambda: blocked(database))
            sent += [asyncio.create_task(client.get("/")) for _ in range(3)]
            await asyncio.to_thread(stranger.cursor().execute, "SELECT * FROM counter FOR UPDATE")
            stranger.rollback()
        assert sorted(numbers_in(await asyncio.gather(*sent))) == [1, 2, 3, 4]
    assert audit(database) == 4


async def test_a_read_only_database_is_read_and_refuses_what_changes_it(database: Database, start: Start) -> None:
    service = start(workers=1, **OPEN)
    async with clients(service) as client:
        assert number_in((await client.get("/")).text) == 1
        database.server.execute("SET GLOBAL read_only = 1")
        try:
            assert_refused(await client.get("/"))
            assert_refused(await client.get("/", headers={"Idempotency-Key": "k"}))
            assert_refused(await client.put("/counters/new"))
            assert_refused(await client.delete("/counters/page"))
            assert (await client.get("/counters/page")).json()["value"] == 1
        finally:
            database.server.execute("SET GLOBAL read_only = 0")
        assert number_in((await client.get("/", headers={"Idempotency-Key": "k"})).text) == 2
    assert audit(database) == 2
    assert not service.logged("Traceback")


@pytest.mark.any_database
async def test_a_server_without_a_free_connection_refuses_and_recovers(database: Database, start: Start) -> None:
    service = start(workers=1, **HASTY, **OPEN)
    strangers: list[pymysql.Connection[Any]] = []
    ((most,),) = database.server.execute("SELECT @@max_connections")
    async with clients(service) as client:
        assert number_in((await client.get("/")).text) == 1
        database.server.execute("SET GLOBAL max_connections = 10")
        try:
            database.kill_connections()
            with pytest.raises(pymysql.err.OperationalError, match="Too many connections"):
                while True:
                    strangers.append(database.server.connect())
            for path in "/", "/counters/page":
                assert_refused(await client.get(path))
        finally:
            for stranger in strangers:
                stranger.close()
            await until(lambda: database.server.execute(f"SET GLOBAL max_connections = {most}") == [])
        assert number_in((await client.get("/")).text) == 2
    assert audit(database) == 2
    assert not service.logged("Traceback")


@pytest.mark.any_database
async def test_a_database_without_room_refuses_and_recovers(tmp_path: Path, plain_environment: dict[str, str]) -> None:
    port, shared = free_port(), "--innodb-file-per-table=0"
    async with AsyncExitStack() as stack:
        room = "--innodb-data-file-path=ibdata1:12M:autoextend:max:16M"
        server = stack.enter_context(private_mariadb(tmp_path, port, shared, room))
        database = make_database(server)
        environment = {**plain_environment, **database.environment, "SECRET_KEY": SECRET_KEY}
        migrate(environment)
        database.execute("CREATE TABLE filler (text LONGTEXT)")
        with pytest.raises(pymysql.err.OperationalError, match="is full"):
            while True:
                database.execute("INSERT INTO filler VALUES (REPEAT('x', 30000))")
        service = stack.enter_context(hypercorn(environment, tmp_path / "log", workers=1))
        wait_until(lambda: is_ready(service), log=service.log)
        client = await stack.enter_async_context(clients(service))
        counted = 0
        while (answer := await client.get("/")).status_code == 200:  # as long as a page has room
            counted += 1
            assert number_in(answer.text) == counted
        assert_refused(answer)
        assert audit(database) == counted
        server.end(signal.SIGTERM)
        server = stack.enter_context(private_mariadb(tmp_path, port, shared))
        await until(lambda: is_ready(service))
        assert number_in((await client.get("/")).text) == counted + 1
        assert audit(Database(server, database.name, database.environment)) == counted + 1
        assert not service.logged("Traceback")


@pytest.mark.any_database
async def test_a_worker_that_is_stopped_answers_the_hits_that_wait_first(database: Database, start: Start) -> None:
    service = start(workers=1, **PATIENT)
    async with clients(service) as client:
        with held(database):
            sent = [asyncio.create_task(client.get("/")) for _ in range(20)]
            await until(lambda: blocked(database))
            service.process.send_signal(signal.SIGTERM)
            await until(lambda: not service.accepts())
        assert sorted(numbers_in(await asyncio.gather(*sent))) == list(range(1, 21))
    assert service.process.wait(20) == 0
    assert audit(database) == 20


@pytest.mark.any_database
async def test_hits_that_wait_in_a_killed_worker_have_one_number_each_when_their_keys_are_sent_again(
    database: Database, start: Start
) -> None:
    keys = [{"Idempotency-Key": f"k{i}"} for i in range(20)]
    service = start(workers=1, **PATIENT)
    async with clients(service) as client:
        with held(database):
            sent = [asyncio.create_task(client.get("/", headers=key)) for key in keys]
            await until(lambda: blocked(database))
            service.workers()[0].kill()
            lost = await asyncio.gather(*sent, return_exceptions=True)
            assert all(isinstance(answer, httpx.TransportError) for answer in lost), lost
    another = start(workers=1, **PATIENT)
    async with clients(another) as client:
        numbers = [number_in((await client.get("/", headers=key)).text) for key in keys]
    assert sorted(numbers) == list(range(1, 21))
    assert audit(database) == 20
