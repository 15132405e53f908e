"""The Locust scenario, against the service and against a counter that lies."""

import subprocess
import sys
from pathlib import Path

import pytest

from service.settings import ROOT
from tests.conftest import Start
from tests.databases import Database
from tests.processes import hypercorn


def visit(url: str, hits: int) -> "subprocess.CompletedProcess[str]":
    """Runs the scenario with fifty visitors."""
    command = [
        "locust",
        "--locustfile",
        "loadtests",
        "--host",
        url,
        "--headless",
        "--users",
        "50",
        "--spawn-rate",
        "50",
    ]
    return subprocess.run(
        [sys.executable, "-m", *command, "--hits", str(hits), "--only-summary"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.mark.any_database
def test_the_scenario_sends_as_many_hits_as_it_was_told_to_and_finds_them_right(
    database: Database, start: Start
) -> None:
    ended = visit(start().url, 1000)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "1000 different numbers, 0 failures" in ended.stdout
    assert database.execute("SELECT count FROM counter") == [(1000,)]


def test_the_scenario_fails_where_a_number_is_given_twice(plain_environment: dict[str, str], tmp_path: Path) -> None:
    with hypercorn(plain_environment, tmp_path / "log", app="tests.counter.liar:app", workers=1) as liar:
        ended = visit(liar.url, 200)
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "100 different numbers, 100 failures" in ended.stdout
