"""Targets for Locust, which tests share: the service, and counters in memory with and without faults."""

from collections.abc import Iterator

import pytest

from harness.databases import Database, DatabaseServer, new_database
from harness.processes import Hypercorn, hypercorn, is_ready, wait_until
from tests.conftest import SECRET_KEY, migrate

FAULTY = "tests.loadtests.faulty_counters"


@pytest.fixture(scope="module")
def target_database(server: DatabaseServer, plain_environment: dict[str, str]) -> Iterator[Database]:
    """The database of `service`."""
    with new_database(server) as database:
        migrate({**plain_environment, **database.environment, "SECRET_KEY": SECRET_KEY})
        yield database


@pytest.fixture(scope="module")
def service(
    target_database: Database, plain_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Hypercorn]:
    """The service, whose API asks for no token."""
    own = {"SECRET_KEY": SECRET_KEY, "WORKERS": "2", "API_TOKENS_REQUIRED": "false"}
    environment = {**plain_environment, **target_database.environment, **own}
    with hypercorn(environment, tmp_path_factory.mktemp("service") / "log") as service:
        wait_until(lambda: is_ready(service), process=service.process, log=service.log)
        yield service


@pytest.fixture(scope="session")
def faulty(plain_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the counters in memory: a fault's name follows it."""
    log = tmp_path_factory.mktemp("faulty") / "log"
    with hypercorn(plain_environment, log, app=f"{FAULTY}:in_memory()", workers=1) as server:
        yield server.url


@pytest.fixture
def right(faulty: str) -> str:
    """The address of a counter in memory without a fault."""
    return f"{faulty}/no_fault"
