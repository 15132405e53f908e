"""The FastAPI application that the counter is compared with."""

from pathlib import Path

import pytest

from benchmarks.suites import FASTAPI_STACK
from harness.databases import Database
from tests.loadtests.other_stacks import check_counts_each_hit_once, check_is_pinned, check_sleeps_with_no_lock_held

pytestmark = [pytest.mark.any_database, pytest.mark.native]


async def test_it_counts_each_hit_once(database: Database, environment: dict[str, str], tmp_path: Path) -> None:
    await check_counts_each_hit_once(FASTAPI_STACK, database, environment, tmp_path / "log")


def test_its_slow_database_sleeps_with_no_lock_held(
    database: Database, environment: dict[str, str], tmp_path: Path
) -> None:
    check_sleeps_with_no_lock_held(FASTAPI_STACK, database, environment, tmp_path / "log")


def test_its_packages_are_pinned_with_hashes_and_without_an_address() -> None:
    check_is_pinned("fastapi")
