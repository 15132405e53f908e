import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import httpx
import pytest
from sqlalchemy import exc, text

from harness.databases import Database
from harness.processes import Hypercorn, wait_until
from service.platform.app import App
from service.platform.database import OutcomeUnknown, Unavailable, transaction
from service.platform.metrics import registry
from service.platform.settings import ROOT
from tests.conftest import MakeApp, Start

WITH_A_NOTE = "CREATE TABLE note (word VARCHAR(40) PRIMARY KEY) ENGINE=InnoDB"


@pytest.fixture
async def app(make_app: MakeApp) -> AsyncIterator[App]:
    """The application, serving, with a pool of one connection and short time-outs."""
    app = make_app(
        DB_POOL_SIZE=1, DB_POOL_TIMEOUT=0.2, DB_LOCK_TIMEOUT=1, DB_STATEMENT_TIMEOUT=1.5, DB_CONNECT_TIMEOUT=1
    )
    async with app.test_app(), app.app_context():
        yield app


def query(server: Hypercorn, sql: str) -> httpx.Response:
    return httpx.get(f"{server.url}/probe/query?sql={quote(sql)}", timeout=30)


async def scalar(sql: str) -> object:
    async with transaction() as connection:
        return (await connection.execute(text(sql))).scalar()


def test_each_worker_has_one_group_of_connections_none_larger_than_its_pool(database: Database, start: Start) -> None:
    # However unevenly the workers take them, none waits for longer than that.
    server = start(app="tests.platform.probe:app", workers=3, DB_POOL_SIZE=4, DB_POOL_TIMEOUT=14)

    def groups() -> list[int]:
        return [
            sum(bool(connection.raddr) and connection.raddr.port == database.server.port for connection in connections)
            for connections in (worker.net_connections("tcp") for worker in server.workers())
        ]

    with ThreadPoolExecutor(60) as threads:
        answers = [threads.submit(query, server, "SELECT SLEEP(0.5)") for _ in range(60)]
        wait_until(lambda: groups() == [4, 4, 4] and len(database.processes()) == 12)
        assert [answer.result().status_code for answer in answers] == [200] * 60
    assert groups() == [4, 4, 4]


async def test_what_is_given_to_a_statement_is_not_in_its_error(app: App) -> None:
    with pytest.raises(exc.ProgrammingError) as raised:
        async with transaction() as connection:
            await connection.execute(text("SELECT :value no SQL"), {"value": "not-to-be-seen"})
    assert "no SQL" in str(raised.value)
    assert "not-to-be-seen" not in str(raised.value)


async def test_no_connection_is_made_before_the_application_serves(database: Database, make_app: MakeApp) -> None:
    app = make_app()
    assert not database.processes()
    async with app.test_app(), app.app_context():
        await scalar("SELECT 1")
        assert database.processes()
    await asyncio.to_thread(wait_until, lambda: not database.processes())


async def test_a_session_is_read_committed_in_utc_and_gives_up_waiting_early(app: App) -> None:
    assert await scalar("SELECT @@time_zone") == "+00:00"
    assert await scalar("SELECT @@innodb_lock_wait_timeout + @@lock_wait_timeout") == 2
    assert await scalar("SELECT @@wait_timeout") == 60
    assert await scalar("SELECT @@collation_connection") == "utf8mb4_unicode_ci"
    async with transaction() as connection:
        assert await connection.get_isolation_level() == "READ COMMITTED"


async def test_an_emoji_goes_in_and_out(app: App, empty_database: Database) -> None:
    empty_database.execute("CREATE TABLE note (word VARCHAR(40))")
    async with transaction() as connection:
        await connection.execute(text("INSERT INTO note VALUES (:word)"), {"word": "café 🧮"})
    assert await scalar("SELECT word FROM note") == "café 🧮"


async def test_bytes_go_in_and_out(app: App, empty_database: Database) -> None:
    empty_database.execute("CREATE TABLE blobs (bytes VARBINARY(256))")
    every = bytes(range(256))
    async with transaction() as connection:
        await connection.execute(text("INSERT INTO blobs VALUES (:bytes)"), {"bytes": every})
    assert await scalar("SELECT bytes FROM blobs") == every


async def test_an_error_in_the_block_rolls_the_transaction_back(app: App, empty_database: Database) -> None:
    empty_database.execute(WITH_A_NOTE)
    with pytest.raises(ZeroDivisionError):
        async with transaction() as connection:
            await connection.execute(text("INSERT INTO note VALUES ('no')"))
            raise ZeroDivisionError
    assert empty_database.execute("SELECT COUNT(*) FROM note") == [(0,)]


async def test_a_pool_that_is_exhausted_is_said_to_be_unavailable(app: App) -> None:
    async with transaction():
        assert registry.get_sample_value("db_pool_connections_in_use") == 1
        with pytest.raises(Unavailable, match="all 1 connections of the pool were in use"):
            await scalar("SELECT 1")
    assert await scalar("SELECT 1") == 1


async def test_only_those_wait_for_the_pool_who_find_it_in_use(app: App) -> None:
    def waiting() -> float | None:
        return registry.get_sample_value("db_pool_requests_waiting")

    one = asyncio.create_task(scalar("SELECT 1"))
    await asyncio.sleep(0)
    assert waiting() == 0
    other = asyncio.create_task(scalar("SELECT 1"))
    await asyncio.sleep(0)
    assert waiting() == 1
    await asyncio.gather(one, other, return_exceptions=True)
    assert waiting() == 0


async def test_a_statement_ends_at_its_time_out_and_leaves_nothing_to_the_next_user(app: App) -> None:
    with pytest.raises(Unavailable):
        await scalar("SELECT CONCAT('late', SLEEP(3))")
    assert await scalar("SELECT 'mine'") == "mine"


async def test_a_statement_that_is_cancelled_leaves_nothing_to_the_next_user(
    app: App, empty_database: Database
) -> None:
    late = asyncio.create_task(scalar("SELECT CONCAT('late', SLEEP(1))"))
    await asyncio.to_thread(wait_until, lambda: any("late" in str(row["Info"]) for row in empty_database.processes()))
    late.cancel()
    await asyncio.gather(late, return_exceptions=True)
    assert await scalar("SELECT 'mine'") == "mine"


async def test_a_lock_that_is_not_had_in_time_is_said_to_be_unavailable(app: App, empty_database: Database) -> None:
    empty_database.execute(WITH_A_NOTE)
    empty_database.execute("INSERT INTO note VALUES ('held')")
    with empty_database.server.connect(database=empty_database.name) as holder:
        holder.begin()
        holder.cursor().execute("SELECT * FROM note FOR UPDATE")
        with pytest.raises(Unavailable, match="1205"):
            await scalar("SELECT word FROM note FOR UPDATE")


async def test_a_connection_that_the_server_has_ended_is_not_used_again(app: App, empty_database: Database) -> None:
    connection_id = await scalar("SELECT CONNECTION_ID()")
    empty_database.server.execute(f"KILL {connection_id}")
    assert await scalar("SELECT CONNECTION_ID()") != connection_id


def test_connections_killed_under_uvloop_cost_no_request(database: Database, start: Start) -> None:
    server = start(app="tests.platform.probe:app", workers=1, DB_POOL_SIZE=3)
    for _ in range(3):
        with ThreadPoolExecutor(12) as threads, httpx.Client() as client:
            url = f"{server.url}/probe/query?sql=SELECT+1"
            assert {answer.status_code for answer in threads.map(client.get, [url] * 24)} == {200}
        database.kill_connections()
    assert not server.logged("RuntimeError")


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO note VALUES ('wrong', 1)",  # a CHECK
        "INSERT INTO note (grade) VALUES (7)",  # no value
        "INSERT INTO note VALUES ('right', 1000)",
        "SELECT no_such_column FROM note",
        "SELECT 18446744073709551615 + 1",
    ],
)
async def test_a_statement_that_can_never_succeed_is_a_bug_and_not_unavailable(
    app: App, empty_database: Database, statement: str
) -> None:
    empty_database.execute(
        "CREATE TABLE note (word VARCHAR(40) NOT NULL, grade TINYINT NOT NULL, CHECK (word <> 'wrong')) ENGINE=InnoDB"
    )
    with pytest.raises(exc.DBAPIError):
        await scalar(statement)


async def test_a_connection_that_is_lost_does_not_hide_the_blocks_own_error(app: App, empty_database: Database) -> None:
    with pytest.raises(ZeroDivisionError):
        async with transaction() as connection:
            connection_id = (await connection.execute(text("SELECT CONNECTION_ID()"))).scalar()
            empty_database.server.execute(f"KILL {connection_id}")
            raise ZeroDivisionError
    assert await scalar("SELECT 1") == 1


@pytest.mark.parametrize("password", ["s%r@v:i/c#e '\"$\\", "naïve", "пароль 密码 🧮"])
async def test_a_password_of_any_characters_lets_the_service_and_the_job_in(
    database: Database, environment: dict[str, str], make_app: MakeApp, password: str
) -> None:
    if not database.server.is_root:
        pytest.skip("needs MYSQL_ROOT_PASSWORD")
    users = {name: database.environment[f"{name}_USERNAME"] for name in ("DB", "MIGRATION_DB")}
    with database.server.connect() as connection, connection.cursor() as cursor:
        for user in users.values():
            cursor.execute(f"ALTER USER '{user}'@'%%' IDENTIFIED BY %s", (password,))
    given = {f"{name}_PASSWORD": password for name in users}
    app = make_app(**given)
    async with app.test_app(), app.app_context():
        assert await scalar("SELECT 1") == 1
    job = [sys.executable, "-m", "alembic", "current"]
    await asyncio.to_thread(subprocess.run, job, cwd=ROOT, env={**environment, **given}, check=True)


async def test_a_connection_lost_before_the_commit_is_unavailable(app: App, empty_database: Database) -> None:
    empty_database.execute(WITH_A_NOTE)
    with pytest.raises(Unavailable):
        async with transaction() as connection:
            await connection.execute(text("INSERT INTO note VALUES ('lost')"))
            connection_id = (await connection.execute(text("SELECT CONNECTION_ID()"))).scalar()
            empty_database.server.execute(f"KILL {connection_id}")
            await connection.execute(text("SELECT 1"))
    assert empty_database.execute("SELECT COUNT(*) FROM note") == [(0,)]


async def test_a_connection_lost_at_the_commit_leaves_the_outcome_unknown(app: App, empty_database: Database) -> None:
    empty_database.execute(WITH_A_NOTE)
    with pytest.raises(OutcomeUnknown):
        async with transaction() as connection:
            await connection.execute(text("INSERT INTO note VALUES ('lost')"))
            connection_id = (await connection.execute(text("SELECT CONNECTION_ID()"))).scalar()
            empty_database.server.execute(f"KILL {connection_id}")


async def test_a_server_that_accepts_and_says_nothing_is_given_up(empty_database: Database, make_app: MakeApp) -> None:
    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    silent = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    app = make_app(DB_PORT=port, DB_CONNECT_TIMEOUT=0.3)
    async with silent, app.test_app(), app.app_context():
        with pytest.raises(Unavailable, match=r"within 0\.3 s"):
            await scalar("SELECT 1")


def test_the_service_may_read_and_write_rows_only(database: Database, start: Start) -> None:
    if not database.server.is_root:
        pytest.skip("without MYSQL_ROOT_PASSWORD both users are DB_USERNAME")
    server = start(app="tests.platform.probe:app")
    assert query(server, "SELECT COUNT(*) FROM alembic_version").text == "1"
    for statement in "CREATE TABLE t (a INT)", "DROP TABLE alembic_version", "ALTER TABLE alembic_version ADD a INT":
        assert query(server, statement).status_code == 500
    assert server.log.read_text().count("command denied to user") >= 3
    assert database.execute("SELECT COUNT(*) FROM alembic_version") == [(1,)]
