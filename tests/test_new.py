"""The README's steps for putting another application in the counter's place, taken on a copy of the repository."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.databases import Database, DatabaseServer
from service.platform.settings import ROOT

REMOVAL = """
rm -r service/counter tests/counter docs/counter migrations/versions/*.py
rm -r loadtests/*/ tests/loadtests benchmarks tests/benchmarks
"""

HELLO = """
from quart import Blueprint
from sqlalchemy import Column, Integer, Table, func, insert, select

from service.platform.database import TABLE_OPTIONS, metadata, transaction

greeting = Table("greeting", metadata, Column("id", Integer, primary_key=True), **TABLE_OPTIONS)
blueprint = Blueprint("hello", __name__)


@blueprint.get("/hello")
async def hello() -> str:
    async with transaction() as connection:
        await connection.execute(insert(greeting))
        return f"hello {(await connection.execute(select(func.count()).select_from(greeting))).scalar_one()}"
"""

HELLO_TEST = """
import subprocess
import sys

import httpx

from harness.databases import Database
from service.platform.settings import ROOT
from tests.conftest import Start


def test_hello_greets(database: Database, start: Start) -> None:
    service = start()
    assert httpx.get(service.url + "/hello").text == "hello 1"


def test_its_scenario_has_a_verdict(database: Database, start: Start) -> None:
    locust = [sys.executable, "-m", "locust", "-f", "loadtests/scenarios/hello.py", "--host", start().url]
    options = ["--headless", "--users", "2", "--run-time", "2s", "--thresholds", "own.toml"]
    for p99, status in ("60000", 0), ("0", 1):
        (ROOT / "own.toml").write_text(f"[Hello]\\np99 = {p99}\\n")
        ended = subprocess.run([*locust, *options], cwd=ROOT, capture_output=True, text=True)
        assert ended.returncode == status, ended.stdout + ended.stderr
"""

HELLO_SCENARIO = """
from locust import FastHttpUser, constant, task

import loadtests.verdict  # noqa: F401  # ends the run with one


class Hello(FastHttpUser):
    wait_time = constant(0)

    @task
    def greet(self) -> None:
        self.client.get("/hello", name="Hello: greet")
"""


@pytest.fixture
def yours(tmp_path: Path) -> Path:
    """A copy of the repository in which the steps have been taken, but for the first revision."""
    copy = tmp_path / "yours"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    for name in listed.stdout.splitlines() if listed.returncode == 0 else []:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, copy / name)
    subprocess.run(REMOVAL, cwd=copy, check=True, shell=True)
    (copy / "service/hello").mkdir()
    (copy / "service/hello/__init__.py").write_text(HELLO)
    (copy / "tests/hello").mkdir()
    (copy / "tests/hello/__init__.py").touch()
    (copy / "tests/hello/test_hello.py").write_text(HELLO_TEST)
    (copy / "loadtests/scenarios").mkdir()
    (copy / "loadtests/scenarios/hello.py").write_text(HELLO_SCENARIO)
    change(copy / "service/__init__.py", "counter.register(app)", "app.register_blueprint(hello.blueprint)")
    change(copy / "service/__init__.py", "import counter, ", "import hello, ")
    change(copy / "service/__init__.py", "service.counter.tables", "service.platform.database")
    change(copy / "pyproject.toml", '"asgi", "counter", "platform"', '"asgi", "hello", "platform"')
    rules = (copy / "pyproject.toml").read_text().split("\n\n")
    rules = [rule for rule in rules if 'protected_modules = ["benchmarks"]' not in rule]
    (copy / "pyproject.toml").write_text("\n\n".join(rules).replace('"benchmarks", ', ""))
    manual = (copy / ".quartenv.example").read_text()
    section = manual[manual.index("# ---- The counter -") : manual.index("# ---- nginx and the bundle -")]
    change(copy / ".quartenv.example", section, "")
    for file in "docker-compose.prod.yml", "deploy/compose.external-mysql.yml":
        job = re.search(r"(  #[^\n]*\n)?  roll-up:\n(    .*\n)+\n?", (copy / file).read_text())
        assert job is not None
        change(copy / file, job[0], "")
    change(copy / "README.md", "| `GET /` | counts one", "| `GET /hello` | says how often it was said")
    (copy / "CHANGELOG.md").write_text("# Changelog\n")
    return copy


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def run(yours: Path, environment: dict[str, str], *arguments: str) -> str:
    """Runs a Python module's command in the copy and returns what it printed."""
    ended = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=yours, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]
    return ended.stdout


def write_first_revision(yours: Path, database: Database, environment: dict[str, str]) -> None:
    run(yours, environment, "alembic", "revision", "--autogenerate", "-m", "first tables")
    run(yours, environment, "alembic", "upgrade", "head")
    assert database.execute("SHOW TABLES LIKE 'greeting'")


def environment_of_the_copys_tests(plain_environment: dict[str, str], server: DatabaseServer) -> dict[str, str]:
    """The tests of the copy use the server that these tests use, and are not part of their coverage."""
    kept = {name: value for name, value in plain_environment.items() if not name.startswith(("COVERAGE", "COV_"))}
    secret = "MYSQL_ROOT_PASSWORD" if server.is_root else "DB_PASSWORD"
    return {
        **kept,
        "DB_HOST": server.host,
        "DB_PORT": str(server.port),
        "DB_USERNAME": server.username,
        secret: server.password,
    }


@pytest.mark.any_database
@pytest.mark.parametrize(
    "chosen",
    [
        pytest.param(
            ["tests/hello", "tests/test_import_rules.py", "tests/test_readme.py", "tests/platform/test_requests.py"],
            id="some",
        ),
        pytest.param(["tests"], id="all", marks=pytest.mark.rehearsal),
    ],
)
def test_the_platforms_tests_pass_with_another_application(
    chosen: list[str],
    yours: Path,
    empty_database: Database,
    environment: dict[str, str],
    plain_environment: dict[str, str],
) -> None:
    write_first_revision(yours, empty_database, environment)
    printed = run(
        yours,
        environment_of_the_copys_tests(plain_environment, empty_database.server),
        *("pytest", "-q", "-m", "not compose and not nginx and not native"),
        *("--deselect", f"tests/{Path(__file__).name}", *chosen),
    )
    assert int(re.findall(r"(\d+) passed", printed)[0]) > 20


@pytest.mark.any_database
@pytest.mark.compose
@pytest.mark.rehearsal
def test_the_compose_stack_runs_another_application(
    yours: Path,
    empty_database: Database,
    environment: dict[str, str],
    plain_environment: dict[str, str],
) -> None:
    write_first_revision(yours, empty_database, environment)
    run(yours, plain_environment, "pytest", "-q", "-m", "compose", "tests/deploy/test_compose.py")
