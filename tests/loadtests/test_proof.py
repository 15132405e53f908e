"""The proof against flask_patch: its one command, and that the other application counts rightly."""

import os
import re
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from harness.databases import Database
from harness.processes import wait_until
from loadtests.proof.__main__ import COMPARED, table
from loadtests.proof.measuring import Run, counted_as_own, own_seconds
from loadtests.proof.servers import application
from loadtests.proof.stacks import FLASK_PATCH, FLASK_PATCH_STACK, TALLY
from service.platform.settings import ROOT
from tests.loadtests.other_stacks import (
    check_counts_each_hit_once,
    check_is_pinned,
    check_sleep_holds_no_lock,
    check_sleeps_with_no_lock_held,
)

pytestmark = [pytest.mark.any_database, pytest.mark.native]


def test_the_proof_ends_with_a_table_of_ratios_and_a_chart(tmp_path: Path) -> None:
    chart = tmp_path / "users.svg"
    command = ["./run", "load", "--compare", "--workers", "1", "--users", "4", "--seconds", "2", "--chart", str(chart)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert ended.returncode == 0, ended.stderr
    assert re.search(r"^\| 4 \|.*\| \*\*[\d.]+\*\* \| \*\*[\d.]+\*\* \|$", ended.stdout, re.MULTILINE), ended.stdout
    drawn = chart.read_text()
    assert all(text in drawn for text in (TALLY, FLASK_PATCH, "requests/s", "users"))
    assert "#ffffff" not in drawn  # no background: it is read on light and on dark ones


def test_the_table_has_a_row_for_each_number_of_users_and_tells_what_is_missing() -> None:
    tally, other, *slow = COMPARED
    runs = [Run(name, 8, rate, 1, 9, 0, "") for name, rate in ((tally, 100), (other, 40), (slow[0], 30), (slow[1], 3))]
    lines = table([*runs, Run(tally, 16, 100, 1, 9, 0, "")]).splitlines()
    assert lines[2:] == [
        "| 8 | 100 (9) | 40 (9) | 30 (9) | 3 (9) | **2.5** | **10.0** |",
        "| 16 | 100 (9) |  |  |  |  |  |",
    ]


def test_the_time_of_a_process_that_is_no_child_is_foreign_unless_it_is_counted_as_own() -> None:
    started = subprocess.run(["sh", "-c", "yes >/dev/null & echo $!"], stdout=subprocess.PIPE, text=True, check=True)
    elsewhere = psutil.Process(int(started.stdout))
    try:
        wait_until(lambda: sum(elsewhere.cpu_times()[:2]) >= 0.5)
        with counted_as_own([elsewhere]):
            with_it = own_seconds()
        assert with_it - own_seconds() >= 0.4
    finally:
        os.kill(elsewhere.pid, signal.SIGKILL)


async def test_flask_patch_counts_each_hit_once(
    database: Database, environment: dict[str, str], tmp_path: Path
) -> None:
    await check_counts_each_hit_once(FLASK_PATCH_STACK, database, environment, tmp_path / "log")


def test_the_slow_database_of_flask_patch_sleeps_with_no_lock_held(
    database: Database, environment: dict[str, str], tmp_path: Path
) -> None:
    check_sleeps_with_no_lock_held(FLASK_PATCH_STACK, database, environment, tmp_path / "log")


@pytest.mark.parametrize("name", ["flask_patch", "charts"])
def test_packages_beside_the_services_are_pinned_with_hashes_and_without_an_address(name: str) -> None:
    check_is_pinned(name)


def test_the_slow_database_of_the_service_sleeps_with_no_lock_held(
    database: Database, environment: dict[str, str], tmp_path: Path
) -> None:
    app = "loadtests.proof.slow_database:make()"
    with application(app, environment, tmp_path / "log", workers=1, slow=2) as url:
        check_sleep_holds_no_lock(url, database)
