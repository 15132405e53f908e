import asyncio
import http.client
import json
import re
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from harness.databases import Database, make_database, private_mariadb
from harness.processes import Hypercorn, free_port, hypercorn, is_ready, wait_until
from harness.proxy import proxy
from service.platform.health import TIMEOUT
from service.platform.settings import ROOT
from tests.conftest import SECRET_KEY, MakeApp, Start


def alembic(environment: dict[str, str], *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "alembic", *arguments], cwd=ROOT, env=environment, check=True)


def readiness(server: Hypercorn) -> tuple[int, str]:
    """Returns the status and the detail of `/readyz`, which are Problem Details where it is not 200."""
    answer = httpx.get(f"{server.url}/readyz")
    if answer.status_code == httpx.codes.OK:
        return answer.status_code, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["retry-after"]
    return answer.status_code, answer.json()["detail"]


def test_a_migrated_database_is_ready(database: Database, start: Start) -> None:
    server = start()
    assert readiness(server) == (200, "ready\n")
    assert httpx.get(f"{server.url}/livez").status_code == 200
    wait_until(lambda: server.logged('"event": "ready"'))


def test_the_version_is_in_readyz_in_the_log_and_in_a_header(database: Database, start: Start) -> None:
    server = start(APP_VERSION="1.2.3-x", VERSION_HEADER="X-Version")
    assert readiness(server) == (200, "ready, version 1.2.3-x\n")
    answers = [httpx.get(f"{server.url}/{path}") for path in ("livez", "not-here")]
    assert [answer.headers.get("X-Version") for answer in answers] == ["1.2.3-x"] * 2
    wait_until(lambda: server.logged('"event": "ready"'))
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    assert {line["version"] for line in lines} == {"1.2.3-x"}


def test_a_schema_that_is_behind_is_not_ready_and_becomes_so_by_itself(
    empty_database: Database, environment: dict[str, str], start: Start
) -> None:
    server = start(ready=False)
    status, detail = readiness(server)
    assert status == 503
    assert "revision none" in detail
    assert "alembic upgrade head" in detail
    alembic(environment, "upgrade", "head")
    wait_until(lambda: is_ready(server))
    alembic(environment, "downgrade", "base")
    wait_until(lambda: not is_ready(server))
    log = server.log.read_text()
    assert log.index("not ready: ") < log.index('"event": "ready"') < log.rindex("not ready: ")


def test_a_schema_newer_than_the_code_is_ready(database: Database, start: Start) -> None:
    server = start()
    database.execute("UPDATE alembic_version SET version_num = 'from_the_future'")
    assert readiness(server)[0] == 200


def test_the_service_outlives_a_database_that_is_not_there_comes_and_is_killed(
    plain_environment: dict[str, str], tmp_path: Path
) -> None:
    port = free_port()
    with private_mariadb(tmp_path, port) as server:
        database = make_database(server)
        environment = {**plain_environment, **database.environment, "SECRET_KEY": SECRET_KEY}
        alembic(environment, "upgrade", "head")
    with hypercorn(environment, tmp_path / "log", app="tests.platform.probe:app") as service:
        assert httpx.get(f"{service.url}/livez").status_code == 200
        status, detail = readiness(service)
        assert status == 503
        assert "error 2003" in detail
        assert httpx.get(f"{service.url}/probe/query?sql=SELECT+1").status_code == 503
        for end in signal.SIGKILL, signal.SIGTERM:
            with private_mariadb(tmp_path, port) as server:
                wait_until(lambda: is_ready(service))
                assert httpx.get(f"{service.url}/probe/query?sql=SELECT+1").text == "1"
                server.end(end)
                wait_until(lambda: not is_ready(service))
        assert not service.logged("Traceback")


@pytest.mark.any_database
@pytest.mark.parametrize("variable", ["sync_binlog", "innodb_flush_log_at_trx_commit"])
def test_a_server_that_may_forget_commits_is_refused_unless_that_is_meant(
    database: Database, start: Start, variable: str
) -> None:
    if not database.server.is_root:
        pytest.skip("needs MYSQL_ROOT_PASSWORD")
    database.server.execute(f"SET GLOBAL {variable} = 0")
    try:
        strict = start(app="tests.platform.probe:app", workers=1, ready=False)
        relaxed = start(app="tests.platform.probe:app", workers=1, DURABILITY="relaxed")
        status, detail = readiness(strict)
        assert status == 503
        assert variable in detail
        assert "DURABILITY=relaxed" in detail
        assert httpx.get(f"{strict.url}/probe/query?sql=SELECT+1").status_code == 503
        assert httpx.get(f"{relaxed.url}/probe/query?sql=SELECT+1").status_code == 200
        assert not strict.logged("Traceback")
    finally:
        database.server.execute(f"SET GLOBAL {variable} = 1")
    wait_until(lambda: is_ready(strict))


@pytest.mark.any_database
def test_a_server_without_a_binary_log_is_refused(plain_environment: dict[str, str], tmp_path: Path) -> None:
    with private_mariadb(tmp_path, None, "--skip-log-bin") as server:
        environment = {**plain_environment, **make_database(server).environment, "SECRET_KEY": SECRET_KEY}
        with hypercorn(environment, tmp_path / "log", app="tests.platform.probe:app", workers=1) as service:
            status, detail = readiness(service)
            assert status == 503
            assert "log_bin" in detail
            assert " are 0, " in detail


@pytest.mark.any_database
def test_a_draining_worker_is_not_ready(database: Database, start: Start) -> None:
    server = start(app="tests.platform.probe:app", workers=1)
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)) as asking:
        asking.request("GET", "/probe/ready-after-sigterm")
        wait_until(lambda: server.logged("waiting for the drain"))
        server.process.send_signal(signal.SIGTERM)
        answer = asking.getresponse()
        assert answer.status == 503
        assert json.loads(answer.read())["detail"] == "This worker is shutting down."


def test_connections_that_do_not_fit_are_said_with_the_sum(database: Database, start: Start) -> None:
    ((free,),) = database.execute("SELECT @@max_connections")
    server = start(workers=2, DB_POOL_SIZE=min(1000, free))
    wait_until(lambda: server.logged("lower WORKERS or DB_POOL_SIZE"))
    (workers, each, wanted), *_ = re.findall(r"(\d+) workers x (\d+) connections .*? = (\d+)", server.log.read_text())
    assert int(workers) * int(each) == int(wanted) > 2 * min(1000, free)


@pytest.mark.any_database
def test_connections_that_fit_are_not_mentioned(database: Database, start: Start) -> None:
    server = start(workers=2, DB_POOL_SIZE=2)
    wait_until(lambda: server.log.read_text().count('"event": "ready"') == 2)
    assert not server.logged("max_connections")


@pytest.mark.any_database
@pytest.mark.parametrize(("name", "value"), [("DB_PASSWORD", "wrong"), ("DATABASE_NAME", "no_such_database")])
def test_a_database_that_refuses_is_not_ready_and_clients_see_no_cause(
    database: Database, start: Start, name: str, value: str
) -> None:
    server = start(app="tests.platform.probe:app", ready=False, **{name: value})
    assert readiness(server)[0] == 503
    answer = httpx.get(f"{server.url}/probe/query?sql=SELECT+1")
    assert answer.status_code == 503
    assert answer.headers["retry-after"]
    assert database.environment["DB_USERNAME"] not in answer.text
    assert server.logged("Access denied")


async def test_a_login_that_takes_long_is_not_broken_off(database: Database, make_app: MakeApp) -> None:
    async def broken_off() -> int:
        ((_, number),) = await asyncio.to_thread(database.execute, "SHOW GLOBAL STATUS LIKE 'Aborted_connects'")
        return int(number)

    before = await broken_off()
    async with proxy(database.server.port, delay=0.6 * TIMEOUT) as slow:  # a login takes three of these
        app = make_app(DB_PORT=slow.port, DB_CONNECT_TIMEOUT=10)
        async with asyncio.timeout(20), app.test_app():
            answer = await app.test_client().get("/readyz")
            assert "did not answer within" in (await answer.get_json())["detail"]
            await asyncio.to_thread(wait_until, lambda: bool(database.processes()))
            slow.reset()  # what follows the login would take as long
    assert await broken_off() == before


async def test_a_look_at_the_database_ends_before_the_worker_has_left(database: Database, make_app: MakeApp) -> None:
    app = make_app()
    async with app.test_app():
        assert "readiness" in {task.get_name() for task in asyncio.all_tasks()}
    assert asyncio.all_tasks() == {asyncio.current_task()}
