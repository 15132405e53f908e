"""`quart receipts fill-gaps`: numbers without a receipt get one, and the books are right; nothing else is changed."""

from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from harness.databases import Database
from service.counter.gaps import NotFilled, fill_gaps
from service.counter.roll_up import LOCK
from service.platform.database import create_engine
from tests.conftest import MakeApp
from tests.counter.audit import audit
from tests.counter.shared import *  # noqa: F403  # fixtures
from tests.counter.test_receipts import receipts

pytestmark = pytest.mark.any_database


@pytest.fixture
async def engine(make_app: MakeApp) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(make_app().settings.database)
    yield engine
    await engine.dispose()


def give(database: Database, name: str, *receipts: tuple[int, int]) -> int:
    """Inserts the counter's receipts, one minute after the other; returns the counter's id."""
    ((counter_id,),) = database.execute("SELECT id FROM counter WHERE name = %s", name)
    for first, last in receipts:
        at = f"2026-01-01 00:{first:02d}:00"
        database.execute(
            "INSERT INTO receipt VALUES (SUBSTR(UUID(), 1, 16), %s, %s, %s, %s)", counter_id, first, last, at
        )
    return int(counter_id)


async def test_each_gap_gets_a_receipt_with_the_time_of_the_next(
    shared: Database, name: str, engine: AsyncEngine
) -> None:
    counter_id = give(shared, name, (4, 6), (9, 9), (10, 12))
    shared.execute("INSERT INTO history VALUES (%s, '2026-01-01', 1)", counter_id)
    shared.execute("UPDATE counter SET start = 1, count = 20 WHERE id = %s", counter_id)
    assert await fill_gaps(engine, name) == 1 + 2 + 8
    assert audit(shared, name) == 20
    filled = (
        "SELECT first, last, MINUTE(created_at) FROM receipt WHERE counter_id = %s AND first IN (3, 7) ORDER BY first"
    )
    assert shared.execute(filled, counter_id) == [(3, 3, 4), (7, 8, 9)]
    assert await fill_gaps(engine, name) == 0


async def test_what_is_wrong_otherwise_is_left_as_it_is(shared: Database, name: str, engine: AsyncEngine) -> None:
    counter_id = give(shared, name, (3, 5), (5, 6))
    with pytest.raises(NotFilled, match="overlaps"):
        await fill_gaps(engine, name)
    assert shared.execute("SELECT COUNT(*) FROM receipt WHERE counter_id = %s", counter_id) == [(2,)]


async def test_beside_a_roll_up_nothing_is_done(shared: Database, name: str, engine: AsyncEngine) -> None:
    counter_id = give(shared, name, (3, 5))
    async with engine.connect() as roll_up:
        assert (await roll_up.execute(LOCK, {"counter_id": counter_id})).scalar() == 1
        with pytest.raises(NotFilled, match="roll-up"):
            await fill_gaps(engine, name)


def test_a_counter_that_there_is_not_is_said(shared: Database, environment: dict[str, str]) -> None:
    ended = receipts(environment, "fill-gaps", "none-such")
    assert (ended.returncode, ended.stderr) == (1, "none-such: There is no counter 'none-such'.\n")
