"""Fixtures, and how the tests are spread over processes.

`server`: a database server of this process, for the whole run: MariaDB, and then MySQL for what is not marked
`any_database`. `database`: a database of the test's own with all tables; `empty_database`: without any; `make_tables`
fills one that a fixture for a whole file has made by `new_database`. `environment`: what a process needs to use it.
`make_app`: the application in this process. `start`: Hypercorn, one worker unless told otherwise. `stack`
(harness/compose.py): the compose stack, one for all.
"""

import functools
import logging
import os
import shutil
import ssl
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

# httpx.get makes a context each time, which takes 20 ms.
ssl.create_default_context = functools.cache(ssl.create_default_context)  # type: ignore[assignment]
logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for each request of the tests

SECRET_KEY = "a secret key of the tests"

NEEDS = {
    "compose": (docker_answers, "no Docker engine answers here (the compose stack, MySQL)"),
    "acme": (lambda: shutil.which("pebble") is not None, "pebble is not installed (an ACME server)"),
    # --- counter
    "node": (lambda: shutil.which("node") is not None, "node is not installed (clients in JavaScript)"),
    # --- end of counter
    "systemd": (
        lambda: shutil.which("systemd-analyze") is not None,
        "systemd-analyze is not installed (systemd's units)",
    ),
    "browser": (lambda: shutil.which("chromedriver") is not None, "chromedriver is not installed (pages in a browser)"),
}
"""What the tests with a marker need: whether it is here, and what is missing if not."""

LONG = {"test_scenarios.py", "test_runs.py"}
"""Files whose tests are all `long`: each runs Locust."""

_LEFT_OUT = pytest.StashKey[dict[str, int]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_LEFT_OUT] = {}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One more process than processors, since tests wait too; one on a configured server, whose settings they set.

    With two more the processors were never idle, and what waits with a limit waited longer.
    """
    return 1 if configured_server() else (os.cpu_count() or 1) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Has a process run all tests of a file, and all that share the compose stack or the MySQL container.

    Not by `--dist loadgroup`, which does nothing with pytest 9.2 (pytest-xdist 3.8 writes to what that no longer has).
    """
    from xdist.scheduler import LoadScopeScheduling  # noqa: PLC0415  # where xdist is not used, it need not be there

    scheduling = LoadScopeScheduling(config, log)
    scheduling._split_scope = group
    return scheduling


def group(nodeid: str) -> str:
    """Returns the name that all tests have which one process runs."""
    path, _, name = nodeid.partition("::")
    if "test_compose" in path:
        return "compose"
    if "[mysql" in name:
        return "mysql"
    return path


@pytest.hookimpl(tryfirst=True)  # before `-m` has its turn
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sorts the tests: what runs long in one process begins first. Leaves out those whose need is missing."""

    def turn(item: pytest.Item) -> tuple[bool, bool, bool, int]:
        long = group(item.nodeid) == "compose", group(item.nodeid) == "mysql", bool(item.get_closest_marker("native"))
        return not long[0], not long[1], not long[2], -item.path.stat().st_size  # a large file's tests take long, too

    for item in items:
        if item.path.name in LONG:
            item.add_marker(pytest.mark.long)
    items.sort(key=turn)
    _leave_out(config, items)


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
            servers.append(pytest.param("mysql", marks=pytest.mark.compose))
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


def migrate(environment: dict[str, str], cwd: Path = ROOT, python: str | Path = sys.executable) -> None:
    """Runs the migration job of the code in `cwd`."""
    subprocess.run([python, "-m", "alembic", "upgrade", "head"], cwd=cwd, env=environment, check=True)


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
def environment(
    empty_database: Database, plain_environment: dict[str, str], request: pytest.FixtureRequest
) -> dict[str, str]:
    """What a process of ours needs to use this test's database."""
    own = {"SECRET_KEY": SECRET_KEY}
    if request.node.callspec.params["server"] == "mysql":
        own["COVERAGE_AT_IMPORT"] = ""  # measuring takes a third more time, and MariaDB's tests run the same lines
    # --- counter
    own["ROLL_UP_SCHEDULE"] = ""  # or what tests look at would be another at that minute of the hour
    # --- end of counter
    return {**plain_environment, **empty_database.environment, **own}


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
