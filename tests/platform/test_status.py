import subprocess
import sys
from contextlib import ExitStack

import pytest

from harness.databases import Database
from harness.processes import wait_until
from service.platform.settings import ROOT


def status(environment: dict[str, str]) -> tuple[int, str]:
    """Returns the exit code of `quart status`, and what it says."""
    command = [sys.executable, "-m", "quart", "--app", "tests.platform.probe:app", "status"]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert "Traceback" not in ended.stderr
    return ended.returncode, ended.stdout


def test_what_is_well_is_said_without_a_remedy(database: Database, environment: dict[str, str]) -> None:
    code, said = status({**environment, "APP_VERSION": "1.2.3", "PROBE_JOB": "0 0 1 1 *"})
    assert (code, "->" in said) == (0, False), said
    for part in "version       1.2.3\n", " schema ", "connections   ", "job           probe: never\n":
        assert part in said


@pytest.mark.any_database
def test_a_job_that_failed_is_said_with_what_to_do(database: Database, environment: dict[str, str]) -> None:
    database.execute(
        "INSERT INTO job (name, due_at, ended_at, error) VALUES ('probe', '2026-01-01', NOW(), 'Error: see the log')"
    )
    code, said = status({**environment, "PROBE_JOB": "0 0 1 1 *"})
    assert code == 1
    assert "probe: 2026-01-01 00:00 Error: see the log\n          ->  ./run quart jobs list; ./run logs\n" in said


@pytest.mark.any_database
def test_a_schema_that_is_behind_and_a_database_that_is_away_are_said(
    empty_database: Database, environment: dict[str, str]
) -> None:
    for settings, reason in (
        ({}, "run the migration job"),
        ({"DB_PORT": "1"}, "The database cannot be used (error 2003)"),
    ):
        code, said = status({**environment, **settings})
        assert code == 1
        assert reason in said
        assert "->" in said


def connected(database: Database) -> int:
    """Returns the number of connections to the server, without the one that asks."""
    ((_, number),) = database.execute("SHOW STATUS LIKE 'Threads_connected'")
    return int(number) - 1


@pytest.mark.any_database
def test_connections_that_are_nearly_all_in_use_are_said(database: Database, environment: dict[str, str]) -> None:
    if not database.server.is_root:
        pytest.skip("needs MYSQL_ROOT_PASSWORD")
    with database.server.variables(max_connections=13), ExitStack() as stack:
        wait_until(lambda: connected(database) == 0)  # those of an earlier test may end a moment later
        for _ in range(11):
            stack.enter_context(database.server.connect())
        code, said = status(environment)
    assert (code, "->  raise max_connections" in said) == (1, True), said
