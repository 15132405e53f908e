"""Servers that are set up otherwise than ours: the session settles what it can, and readiness says what it cannot."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pymysql
import pytest

from harness.databases import Database, DatabaseServer
from harness.processes import Hypercorn, is_ready, wait_until
from harness.proxy import proxy
from service.platform.mysql_errors import NO_ROOM
from service.platform.settings import ROOT
from tests.conftest import MakeApp, Start
from tests.counter.audit import audit

MODES = "ANSI_QUOTES,PIPES_AS_CONCAT,NO_BACKSLASH_ESCAPES,IGNORE_SPACE,HIGH_NOT_PRECEDENCE,REAL_AS_FLOAT"
OTHERWISE: dict[str, object] = {
    "sql_mode": MODES,
    "completion_type": "RELEASE",
    "sql_safe_updates": 1,
    "sql_select_limit": 1,
    "sql_big_selects": 0,
    "sql_auto_is_null": 1,
    "foreign_key_checks": 0,
    "unique_checks": 0,
    "autocommit": 0,
    "time_zone": "+05:45",
    "character_set_client": "latin1",
    "character_set_results": "latin1",
    "collation_connection": "latin1_german1_ci",
    "transaction_isolation": "SERIALIZABLE",
    "transaction_read_only": 1,
    "wait_timeout": 1,
    "innodb_lock_wait_timeout": 1,
    "max_execution_time": 1,
    "max_statement_time": 0.001,
    "group_concat_max_len": 4,
    "net_write_timeout": 1,
    "div_precision_increment": 0,
    "tmp_table_size": 1024,
    "optimizer_switch": "index_merge=off",
    "session_track_schema": 1,
    "session_track_state_change": 1,
    "session_track_transaction_info": "CHARACTERISTICS",
    "sql_require_primary_key": 1,
    "sql_generate_invisible_primary_key": 1,
    "show_create_table_verbosity": 1,
    "require_row_format": 0,
    "default_storage_engine": "MEMORY",
    "default_week_format": 3,
    "old_mode": "ZERO_DATE_TIME_CAST",
    "query_cache_type": "ON",
    "auto_increment_increment": 7,
    "low_priority_updates": 1,
    "updatable_views_with_limit": 0,
    "init_connect": "SET autocommit = 1",
}
"""What an administrator, a managed service or an old application may have set for every session."""


def known(server: DatabaseServer) -> dict[str, object]:
    """Returns those of the variables that this server has; MariaDB 10.11 has other names for two of them."""
    there = {row[0] for row in server.execute("SHOW GLOBAL VARIABLES")}
    names = {name: name.replace("transaction_", "tx_") if name not in there else name for name in OTHERWISE}
    return {names[name]: value for name, value in OTHERWISE.items() if names[name] in there}


@pytest.fixture
def root(database: Database) -> Database:
    if not database.server.is_root:
        pytest.skip("needs MYSQL_ROOT_PASSWORD")
    return database


async def test_whatever_a_session_begins_with_hits_are_counted_and_keys_found(
    root: Database, make_app: MakeApp, subtests: pytest.Subtests
) -> None:
    every = known(root.server)
    for number, given in enumerate([every, *({name: value} for name, value in every.items())]):
        app = make_app(API_TOKENS_REQUIRED="false")
        with subtests.test(" ".join(given)), root.server.variables(**given):
            async with asyncio.timeout(30), app.test_app():
                client = app.test_client()
                assert (await client.get("/readyz")).status_code == httpx.codes.OK
                for _ in range(2):
                    answer = await client.post("/counters/page/hits", headers={"Idempotency-Key": f"key-{number}"})
                    assert (await answer.get_json()).get("last") == number * 2 + 1, await answer.get_data()
                assert await (await client.get("/")).get_data(as_text=True) == f"<h1>Counter: {number * 2 + 2}</h1>"
                assert (await client.get("/counters/page/history?by=day")).status_code == httpx.codes.OK
                answer = await client.put(f"/counters/new-{number}", json={"title": "é🧮"})
                assert (await answer.get_json())["title"] == "é🧮"
                assert len((await (await client.get("/counters?limit=100")).get_json())["counters"]) == number + 2
    assert audit(root) == (len(every) + 1) * 2


def test_a_migration_runs_whatever_its_session_begins_with(
    empty_database: Database, environment: dict[str, str]
) -> None:
    if not empty_database.server.is_root:
        pytest.skip("needs MYSQL_ROOT_PASSWORD")
    with empty_database.server.variables(**known(empty_database.server)):
        for command in ["upgrade", "head"], ["check"], ["downgrade", "base"], ["upgrade", "head"]:
            subprocess.run([sys.executable, "-m", "alembic", *command], cwd=ROOT, env=environment, check=True)
    engines = empty_database.execute(
        "SELECT DISTINCT engine FROM information_schema.tables WHERE table_schema = DATABASE()"
    )
    assert engines == [("InnoDB",)]


def reason(service: Hypercorn) -> str:
    answer = httpx.get(f"{service.url}/readyz")
    return "" if answer.status_code == httpx.codes.OK else str(answer.json()["detail"])


@contextmanager
def undone(database: Database, do: str, undo: str) -> Iterator[None]:
    """Executes the one statement, and at the end of the block the other."""
    database.execute(do)
    try:
        yield
    finally:
        database.execute(undo)


@contextmanager
def broken(database: Database, how: str) -> Iterator[None]:
    """The server is in a state in which it refuses every hit, for the length of the block."""
    user = database.environment["DB_USERNAME"]
    match how:
        case "its binary log is of statements":
            with database.server.variables(binlog_format="STATEMENT"):
                database.kill_connections()
                yield
            database.kill_connections()
        case "it is read-only":
            with database.server.variables(read_only=1):
                yield
        case "a table is missing":
            with undone(database, "RENAME TABLE receipt TO receipt_away", "RENAME TABLE receipt_away TO receipt"):
                yield
        case "a right is missing":
            pattern = database.name.replace("_", r"\_")
            rights = f"INSERT ON `{pattern}`.*"
            with undone(database, f"REVOKE {rights} FROM '{user}'@'%'", f"GRANT {rights} TO '{user}'@'%'"):
                database.kill_connections()
                yield
            database.kill_connections()
        case "a column is missing":
            column = "ALTER TABLE receipt RENAME COLUMN {} TO {}"
            with undone(database, column.format("created_at", "created"), column.format("created", "created_at")):
                yield
        case _:
            raise AssertionError(how)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("its binary log is of statements", "binlog_format"),
        ("it is read-only", "takes no writes"),
        ("a table is missing", "a table or column is missing"),
        ("a right is missing", "users.sql"),
        ("a column is missing", "a table or column is missing"),
    ],
)
def test_a_server_that_refuses_every_hit_is_not_ready_and_says_why(
    root: Database, start: Start, how: str, said: str
) -> None:
    service = start()
    assert httpx.get(f"{service.url}/").status_code == httpx.codes.OK
    with broken(root, how):
        wait_until(lambda: not is_ready(service))
        assert said in reason(service)
        assert httpx.get(f"{service.url}/").status_code == httpx.codes.SERVICE_UNAVAILABLE
        wait_until(lambda: service.logged("not ready: "))
    wait_until(lambda: is_ready(service))
    wait_until(lambda: httpx.get(f"{service.url}/").status_code == httpx.codes.OK)
    assert not service.logged("Traceback")
    audit(root)


def test_a_connection_to_a_server_that_became_read_only_is_not_kept(root: Database, start: Start) -> None:
    service = start(LANE_POOL_SIZE=1)
    assert httpx.get(f"{service.url}/").status_code == httpx.codes.OK
    before = {row["Id"] for row in root.processes()}
    with root.server.variables(read_only=1):
        assert httpx.get(f"{service.url}/").status_code == httpx.codes.SERVICE_UNAVAILABLE
    assert httpx.get(f"{service.url}/").status_code == httpx.codes.OK
    assert before.isdisjoint(row["Id"] for row in root.processes())
    assert audit(root) == 2


async def test_hits_that_exceed_the_packet_together_are_counted_in_several(root: Database, make_app: MakeApp) -> None:
    app = make_app()
    with root.server.variables(max_allowed_packet=16 * 1024):
        async with asyncio.timeout(60), app.test_app():
            lanes = app.extensions["lanes"]
            asked = [lanes.hit("page", 1, f"key-{number}") for number in range(400)]
            answers = await asyncio.gather(*asked)
    assert sorted(answer.last for answer in answers) == list(range(1, 401))
    assert audit(root) == 400


async def test_a_connection_that_was_reset_is_not_used_again(
    database: Database, make_app: MakeApp, capsys: pytest.CaptureFixture[str]
) -> None:
    async with proxy(database.server.port) as here:
        app = make_app(DB_PORT=here.port)
        async with asyncio.timeout(10), app.test_app():
            for number in range(1, 4):
                assert (await app.extensions["lanes"].hit("page")).last == number
                ends = [writer.wait_closed() for writer in here.clients]
                here.reset()
                await asyncio.gather(*ends, return_exceptions=True)
                await asyncio.to_thread(wait_until, lambda: not database.processes())
    assert "connection lost" not in capsys.readouterr().err


def limited(database: Database, connections: int) -> AbstractContextManager[None]:
    """The service's user may have so many connections at once, for the length of the block."""
    limit = f"ALTER USER '{database.environment['DB_USERNAME']}'@'%' WITH MAX_USER_CONNECTIONS"
    return undone(database, f"{limit} {connections}", f"{limit} 0")


def connected(database: Database) -> "pymysql.Connection[Any]":
    """Returns a connection of the service's user, when there is room: a closed one counts for a moment longer."""
    user, password = database.environment["DB_USERNAME"], database.environment["DB_PASSWORD"]
    made = []

    def connect() -> bool:
        try:
            made.append(pymysql.connect(host="127.0.0.1", port=database.server.port, user=user, password=password))
        except pymysql.err.OperationalError as error:
            if error.args[0] not in NO_ROOM:
                raise
        return bool(made)

    wait_until(connect)
    return made[0]


def test_an_account_with_few_connections_serves_and_stays_ready_once_it_was(root: Database, start: Start) -> None:
    with limited(root, 2):
        service = start(LANE_POOL_SIZE=1)
        for _ in range(3):
            assert httpx.get(f"{service.url}/").status_code == httpx.codes.OK
        with connected(root):
            assert is_ready(service)
            assert httpx.get(f"{service.url}/").status_code == httpx.codes.OK
    assert audit(root) == 4


def test_a_worker_that_finds_no_connection_at_its_start_is_not_ready_and_says_so(root: Database, start: Start) -> None:
    with limited(root, 1):
        with connected(root):
            service = start(ready=False)
            assert "it has no room for more connections" in reason(service)
        wait_until(lambda: is_ready(service))


def test_the_migration_job_waits_for_room(
    empty_database: Database, environment: dict[str, str], tmp_path: Path
) -> None:
    if not empty_database.server.is_root:
        pytest.skip("needs MYSQL_ROOT_PASSWORD")
    own = {name.removeprefix("MIGRATION_"): value for name, value in empty_database.environment.items()}
    log = tmp_path / "log"
    with limited(Database(empty_database.server, empty_database.name, own), 1), log.open("w") as file:
        with pymysql.connect(
            host="127.0.0.1", port=empty_database.server.port, user=own["DB_USERNAME"], password=own["DB_PASSWORD"]
        ):
            job = subprocess.Popen(
                [sys.executable, "-m", "alembic", "upgrade", "head"],
                cwd=ROOT,
                env=environment,
                stdout=file,
                stderr=file,
            )
            wait_until(lambda: "waiting for the database" in log.read_text(), process=job, log=log)
        assert job.wait(30) == 0, log.read_text()
