"""The FastAPI application that the counter is compared with."""

import re
from pathlib import Path

import pytest

from benchmarks.suites import FASTAPI_HYPERCORN_STACK, FASTAPI_STACK
from harness.databases import Database
from harness.environments import Stack
from service.platform.settings import ROOT
from tests.loadtests.other_stacks import check_counts_each_hit_once, check_is_pinned, check_sleeps_with_no_lock_held

pytestmark = [pytest.mark.any_database, pytest.mark.native]


@pytest.mark.parametrize("stack", [FASTAPI_STACK, FASTAPI_HYPERCORN_STACK], ids=["uvicorn", "Hypercorn"])
async def test_it_counts_each_hit_once_under_either_server(
    stack: Stack, database: Database, environment: dict[str, str], tmp_path: Path
) -> None:
    await check_counts_each_hit_once(stack, database, environment, tmp_path / "log")


def test_its_slow_database_sleeps_with_no_lock_held(
    database: Database, environment: dict[str, str], tmp_path: Path
) -> None:
    check_sleeps_with_no_lock_held(FASTAPI_STACK, database, environment, tmp_path / "log")


def test_its_packages_are_pinned_with_hashes_and_without_an_address() -> None:
    check_is_pinned("fastapi")


def test_its_hypercorn_is_the_services() -> None:
    pins = [(ROOT / f"requirements/{name}.txt").read_text() for name in ("fastapi", "production")]
    one, other = (re.findall(r"^hypercorn==\S+", text, re.MULTILINE) for text in pins)
    assert one == other
