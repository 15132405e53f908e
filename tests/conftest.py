"""Fixtures: databases, environments and running servers. See harness/databases.py for which server is used."""

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from harness.databases import (
    Database,
    DatabaseServer,
    configured_server,
    docker_answers,
    mysql_container,
    new_database,
    private_mariadb,
)
from harness.processes import Hypercorn, hypercorn, is_ready, wait_until
from service import create_app
from service.platform.app import App
from service.platform.settings import ROOT, load_settings

pytest_plugins = ["harness.compose"]

Start = Callable[..., Hypercorn]
MakeApp = Callable[..., App]
MakeTables = Callable[[Database], None]

logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each request of the tests

SECRET_KEY = "a secret key of the tests"

NEEDS = {
    "compose": (docker_answers, "no Docker engine answers here (the compose stack, MySQL)"),
    "browser": (lambda: shutil.which("chromedriver") is not None, "chromedriver is not installed (pages in a browser)"),
}
"""What the tests with a marker need: whether it is here, and what is missing if not."""

_LEFT_OUT = pytest.StashKey[dict[str, int]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_LEFT_OUT] = {}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Two more processes than processors, since tests wait too; one on a configured server, whose settings they set."""
    return 1 if configured_server() else len(os.sched_getaffinity(0)) + 2


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Groups the tests for xdist, the longest groups first; leaves out those whose need is missing."""
    for item in items:
        if group := _group(item):
            item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=_turn)
    _leave_out(config, items)


def _group(item: pytest.Item) -> str | None:
    """Returns the name of those with which a test runs in one process, None if it may run in any.

    All that need the shared stack or the MySQL container do, so that there is one of each, and all of a file, for the
    fixtures of the file.
    """
    if _on_mysql(item):
        return "mysql"
    if item.get_closest_marker("compose"):
        return "compose"
    return None if item.get_closest_marker("spread") else str(item.path)


def _on_mysql(item: pytest.Item) -> bool:
    return item.get_closest_marker("mysql") is not None


def _turn(item: pytest.Item) -> tuple[bool, bool, bool]:
    """Returns what sorts the tests: what runs longest in one process is begun first."""
    return not item.get_closest_marker("compose"), not _on_mysql(item), not item.get_closest_marker("native")


def _leave_out(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = config.stash[_LEFT_OUT]
    for marker, (is_here, missing) in NEEDS.items():
        marked = [item for item in items if item.get_closest_marker(marker)]
        if marked and not is_here():
            left_out[missing] = len(marked)
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=missing))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):  # of xdist, which collects in its workers
        session.config.workeroutput["left out"] = session.config.stash[_LEFT_OUT]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[_LEFT_OUT].update(getattr(node, "workeroutput", {}).get("left out", {}))


def pytest_unconfigure(config: pytest.Config) -> None:
    for missing, count in config.stash.get(_LEFT_OUT, {}).items():
        print(f"LEFT OUT: {count} tests, since {missing}.")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "server" in metafunc.fixturenames:
        servers: list[object] = ["configured"] if configured_server() else ["mariadb"]
        if servers == ["mariadb"] and not metafunc.definition.get_closest_marker("any_database"):
            servers.append(pytest.param("mysql", marks=[pytest.mark.compose, pytest.mark.mysql]))
        metafunc.parametrize("server", servers, indirect=True, scope="session")


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DatabaseServer]:
    """A database server: the one that is configured, or a private MariaDB and then a MySQL container."""
    with ExitStack() as stack:
        match request.param:
            case "configured":
                yield configured_server() or pytest.fail("DB_HOST is gone")
            case "mariadb":
                yield stack.enter_context(private_mariadb(tmp_path_factory.mktemp("mariadb")))
            case "mysql":
                yield stack.enter_context(mysql_container())


def migrate(environment: dict[str, str]) -> None:
    """Runs the migration job."""
    subprocess.run([sys.executable, "-m", "alembic", "upgrade", "head"], cwd=ROOT, env=environment, check=True)


@pytest.fixture(scope="session")
def make_tables(server: DatabaseServer, plain_environment: dict[str, str]) -> MakeTables:
    """Makes in an empty database what a migration to the head makes: that runs once, and its tables are copied."""
    with new_database(server) as migrated:
        migrate({**plain_environment, **migrated.environment, "SECRET_KEY": SECRET_KEY})
        statements = migrated.tables()
    return lambda database: database.make_tables(statements)


@pytest.fixture
def empty_database(server: DatabaseServer) -> Iterator[Database]:
    """A database of this test's own, without any table."""
    with new_database(server) as database:
        yield database


@pytest.fixture
def database(empty_database: Database, make_tables: MakeTables) -> Database:
    """A database of this test's own, migrated to the head."""
    make_tables(empty_database)
    return empty_database


@pytest.fixture(scope="session")
def plain_environment() -> dict[str, str]:
    """This process's environment without any setting of ours, and with `.quartenv` left unread."""
    names = {line.split("=")[0].strip("# ") for line in (ROOT / ".quartenv.example").read_text().splitlines()}
    kept = {name: value for name, value in os.environ.items() if name.removesuffix("_FILE") not in names}
    return {**kept, "PYTHON_DOTENV_DISABLED": "1"}


@pytest.fixture
def environment(empty_database: Database, plain_environment: dict[str, str]) -> dict[str, str]:
    """What a process of ours needs to use this test's database."""
    return {**plain_environment, **empty_database.environment, "SECRET_KEY": SECRET_KEY}


@pytest.fixture
def make_app(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> MakeApp:
    """Makes the application, in this process, for this test's database and with the settings given."""

    def make_app(**settings: object) -> App:
        for name, value in {**environment, **{name: str(value) for name, value in settings.items()}}.items():
            monkeypatch.setenv(name, value)
        return create_app(load_settings())

    return make_app


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    """Starts Hypercorn, with settings given as keyword arguments, and waits until it is ready unless told not to."""
    with ExitStack() as stack:

        def start(
            *, app: str = "service.asgi:app", workers: int = 1, ready: bool = True, **settings: object
        ) -> Hypercorn:
            values = {name: str(value) for name, value in settings.items()}
            log = tmp_path / f"hypercorn-{len(list(tmp_path.iterdir()))}.log"
            running = stack.enter_context(
                hypercorn({**environment, "WORKERS": str(workers), **values}, log, app=app, workers=workers)
            )
            if ready:
                wait_until(lambda: is_ready(running), process=running.process, log=log)
            return running

        yield start
