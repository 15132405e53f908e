"""What tests share, and what a run leaves: the tables that are copied, the groups of xdist's, the containers."""

import pytest

from harness.compose import docker, remove_all
from harness.databases import Database, new_database
from harness.processes import container_name
from tests.conftest import SECRET_KEY, group, migrate


def test_the_tables_of_a_test_are_those_that_a_migration_makes(
    database: Database, plain_environment: dict[str, str]
) -> None:
    with new_database(database.server) as migrated:
        migrate({**plain_environment, **migrated.environment, "SECRET_KEY": SECRET_KEY})
        ours, theirs = database.tables(), migrated.tables()
        versions = [one.execute("SELECT version_num FROM alembic_version") for one in (database, migrated)]
    assert versions[0] == versions[1] != []
    # MySQL names the character set of a collation where the statement named the collation, which is the same.
    assert [line.replace("CHARACTER SET utf8mb4 COLLATE", "COLLATE") for line in ours if "CREATE" in line] == [
        line.replace("CHARACTER SET utf8mb4 COLLATE", "COLLATE") for line in theirs if "CREATE" in line
    ]
    # A row has the time at which it was made.
    assert [line.split(" ", 3)[:3] for line in ours] == [line.split(" ", 3)[:3] for line in theirs]
    assert len(ours) > 1


@pytest.mark.parametrize(
    ("nodeid", "name"),
    [
        ("tests/deploy/test_compose.py::test_a", "compose"),
        ("tests/deploy/test_compose.py::test_a[mysql]", "compose"),
        ("tests/platform/test_health.py::test_a[mysql-2]", "mysql"),
        ("tests/platform/test_health.py::test_a[mariadb-2]", "tests/platform/test_health.py"),
        ("tests/platform/test_health.py::test_a", "tests/platform/test_health.py"),
    ],
)
def test_what_shares_a_stack_a_server_or_a_file_runs_in_one_process(nodeid: str, name: str) -> None:
    assert group(nodeid) == name


@pytest.mark.compose
def test_containers_networks_and_volumes_of_a_run_are_removed_by_its_name() -> None:
    name = container_name()
    docker("network", "create", f"{name}_network")
    docker("run", "--detach", "--name", f"{name}-1", "--volume", f"{name}_volume:/data", "nginx:1.30", "sleep", "60")
    remove_all(name)
    for kind in "ps", "network", "volume":
        listing = [kind, "--all"] if kind == "ps" else [kind, "ls"]
        assert docker(*listing, "--quiet", "--filter", f"name={name}") == ""
