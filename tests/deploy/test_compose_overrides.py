"""The files of deploy/ that are laid over docker-compose.prod.yml, and the settings that it takes."""

import json
import socket
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from string import Template

import httpx
import pytest
from wsproto.events import AcceptConnection

from harness.compose import Stack, docker, inspect, logged, new_stack
from harness.processes import wait_until
from service.platform.settings import ROOT
from tests.deploy.test_nginx_streams import handshake

pytestmark = pytest.mark.compose

EXTERNAL = "deploy/compose.external-mysql.yml"


@pytest.fixture
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of this test's own, not started."""
    with new_stack(tmp_path_factory.mktemp("stack") / "tally") as stack:
        yield stack


@pytest.fixture
def own_mysql(tmp_path: Path) -> Iterator[str]:
    """A MySQL of one's own, set up as users.sql says, in a network of its own; yields the name of both."""
    name = f"tally-test-own-{uuid.uuid4().hex[:8]}"
    users = Template((ROOT / "deploy/database/users.sql").read_text()).substitute(
        database="mine",
        database_pattern="mine",
        service_username="me",
        service_password="p$w%:@/'".replace("'", "''"),
        migration_username="me_too",
        migration_password="m",
        backup_username="me_three",
        backup_password="b",
    )
    sql = tmp_path / "users.sql"
    sql.write_text(users)
    docker("network", "create", "--internal", name)
    try:
        docker(
            *("run", "--detach", "--name", name, "--network", name, "--env", "MYSQL_ROOT_PASSWORD=r"),
            *("--tmpfs", "/var/lib/mysql:uid=999,gid=999", "--volume", f"{sql}:/users.sql:ro"),
            *("mysql:9.7", "mysqld", "--init-file=/users.sql"),
        )
        yield name
    finally:
        docker("rm", "--force", "--volumes", name)
        docker("network", "rm", name)


def test_a_mysql_of_ones_own_takes_the_containers_place(own_mysql: str, own: Stack) -> None:
    # How the containers get to that server is the test's own business.
    networks = {"networks": {"database": {"name": own_mysql, "external": True, "internal": False}}}
    (own.directory / "network-of-the-test.yml").write_text(json.dumps(networks))
    (own.directory / ".quartenv").write_text(
        f"DB_HOST={own_mysql}\nDATABASE_NAME=mine\nDB_USERNAME=me\nDB_PASSWORD='p$w%:@/\\''\n"
        "MIGRATION_DB_USERNAME=me_too\nMIGRATION_DB_PASSWORD=m\n"
    )
    stack = own.over(EXTERNAL, "network-of-the-test.yml", COMPOSE_ENV_FILES=".quartenv")
    stack.up("--build")
    assert stack.status("/livez") == 200
    assert stack.compose("ps", "--all", "--services").stdout.split() == ["migrate", "nginx", "secrets", "web"]
    assert "(head)" in stack.compose("run", "--rm", "migrate", "current").stdout


@pytest.mark.parametrize("name", ["DB_HOST", "DB_USERNAME", "DB_PASSWORD"])
def test_a_missing_setting_of_ones_own_mysql_is_named(name: str, stack: Stack) -> None:
    settings = {"DB_HOST": "a", "DB_USERNAME": "b", "DB_PASSWORD": "c"}
    del settings[name]
    ended = stack.over(EXTERNAL, **settings).compose("config", "--quiet", check=False)
    assert ended.returncode != 0
    assert f"required variable {name} is missing a value" in ended.stderr
    assert ".quartenv.example" in ended.stderr


@pytest.mark.rehearsal
def test_development_reloads_what_changes_and_runs_the_tests_inside(own: Stack) -> None:
    stack = own.over("deploy/compose.dev.yml")
    stack.up("--build")
    assert len(stack.containers("web")) == 1
    assert stack.status("/livez") == 200
    source = stack.directory / "service/platform/health.py"
    source.write_text(source.read_text().replace('_fine("alive")', '_fine("alive and changed")'))
    wait_until(lambda: _text(stack) == "alive and changed\n", limit=30)
    ran = stack.compose("run", "--rm", "test", "-q", "tests/migrations", "-k", "goes_up_down_and_up")
    assert "1 passed" in ran.stdout
    refused = stack.compose("run", "--rm", "--entrypoint", "touch", "test", "/srv/service/new", check=False)
    assert "Read-only file system" in refused.stderr


def _text(stack: Stack) -> str:
    try:
        return httpx.get(f"{stack.url}/livez").text
    except httpx.TransportError:
        return ""


def said_by(container: str) -> list[str]:
    """Returns the lines of its log that are no JSON."""
    return [line for line in logged(container).splitlines() if not line.startswith("{")]


UPLOAD = 100_000_000
"""Bytes; more than the memory that an ordinary container has for files."""


@dataclass(frozen=True)
class Cloned:
    """A stack of a clone that nobody else may read, and what the first `up` said, whose port was in use."""

    stack: Stack
    refused: "subprocess.CompletedProcess[str]"
    database: str
    """The state of the database's container after that."""


@pytest.fixture(scope="module")
def cloned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloned]:
    with new_stack(tmp_path_factory.mktemp("cloned") / "tally") as own:
        for path in (own.directory, *own.directory.rglob("*")):
            path.chmod(path.stat().st_mode & 0o700)
        (own.directory / ".quartenv").write_text(
            "WORKERS=3\nLOG_LEVEL=DEBUG\nBODY_TIMEOUT=25\nDB_HOST=elsewhere\nDB_PASSWORD=wrong\n"
            "MYSQL_ROOT_PASSWORD=unneeded\nSECRET_KEY=short\n"
        )
        stack = own.over("tests/deploy/probe.yml", WEB_REPLICAS="1", MAX_BODY_SIZE=str(UPLOAD))
        for name in "tests/__init__.py", "tests/platform/__init__.py", "tests/platform/probe.py":
            (stack.directory / name).chmod(0o644)  # which are mounted, for these tests alone
        for name in "tests", "tests/platform", ".":
            (stack.directory / name).chmod(0o755)
        with socket.create_server(("127.0.0.1", stack.port)):
            refused = stack.compose("up", "--detach", "--build", check=False)
        database = inspect(stack.containers("mysql")[0])["State"]["Status"]
        stack.up()
        yield Cloned(stack, refused, database)


def test_a_port_in_use_is_said_before_a_database_is_made(cloned: Cloned) -> None:
    assert cloned.refused.returncode != 0
    assert "address already in use" in cloned.refused.stderr
    assert cloned.database == "created"


def test_settings_are_taken_from_quartenv_and_the_environment_but_what_the_bundle_decides(cloned: Cloned) -> None:
    (web,) = cloned.stack.containers("web")
    assert docker("top", web).count("--multiprocessing-fork") == 3
    assert '"level": "debug"' in logged(web)
    assert "unneeded" not in json.dumps(inspect(web))
    assert cloned.stack.compose("exec", "web", "printenv", "DB_HOST").stdout == "mysql\n"


def test_all_parts_log_json_and_a_clone_that_nobody_else_may_read_has_its_configuration(cloned: Cloned) -> None:
    (nginx,), (mysql,) = cloned.stack.containers("nginx"), cloned.stack.containers("mysql")
    assert cloned.stack.mysql("SELECT @@max_connections") == [["300"]], "MySQL has not read its configuration"
    assert f'"event":"it answers on {cloned.stack.url}"' in logged(nginx)
    assert said_by(nginx) == []
    database = [json.loads(line) for line in logged(mysql).splitlines() if line.startswith("{")]
    assert any(line["label"] == "System" for line in database)
    warnings = [line for line in database if line["label"] == "Warning"]
    assert [line for line in warnings if line["err_code"] != 13501] == []  # it loads no plugin while it makes its files


def test_large_uploads_and_streams_come_through(cloned: Cloned) -> None:
    stack = cloned.stack
    body = (b"x" * 1_000_000 for _ in range(UPLOAD // 1_000_000))
    answer = httpx.post(f"{stack.url}/probe/parts", content=body, timeout=60)
    assert (answer.status_code, answer.text) == (200, str(UPLOAD))
    assert _status_of_an_upload(stack, UPLOAD + 1) == 413
    events = httpx.get(f"{stack.url}/probe/quiet", headers={"Accept": "text/event-stream"})
    assert events.text == "data: begin\n\ndata: end\n\n"
    _, connection, answered = handshake(stack.port, "/probe/websocket")
    connection.close()
    assert isinstance(answered, AcceptConnection)


def _status_of_an_upload(stack: Stack, size: int) -> int:
    """Returns the status of the answer to a request that says its size, and whose body is not sent."""
    with closing(HTTPConnection("127.0.0.1", stack.port, timeout=10)) as connection:
        connection.putrequest("POST", "/probe/parts")
        connection.putheader("Content-Length", str(size))
        connection.endheaders()
        return connection.getresponse().status


def test_the_health_check_says_the_version(cloned: Cloned) -> None:
    (web,) = cloned.stack.containers("web")
    check = inspect(web)["Config"]["Healthcheck"]["Test"][1:]
    assert docker("exec", web, *check) == "ready, version 0.1.0\n"
