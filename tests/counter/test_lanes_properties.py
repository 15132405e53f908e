"""Whatever comes to two workers' lanes, in whatever order: the books are right, and every client was told the truth."""

import asyncio
import uuid
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.databases import Database
from service.counter.batch import Receipt
from service.counter.errors import IdempotencyKeyReused
from service.counter.pace import Pace
from service.platform.app import App
from service.platform.database import Unavailable
from tests.conftest import MakeApp
from tests.counter.audit import audit
from tests.counter.shared import *  # noqa: F403  # fixtures

pytestmark = pytest.mark.any_database


@dataclass(frozen=True)
class Hit:
    """To a worker, after `pause` turns of the event loop since the last; the client leaves after `patience` turns."""

    worker: int
    amount: int
    key: str | None
    pause: int
    patience: int | None


@dataclass(frozen=True)
class Kill:
    """All connections to the database are ended."""


HITS = st.builds(
    Hit,
    worker=st.integers(0, 1),
    amount=st.sampled_from([1, 1, 1, 2, 1_000_000]),
    key=st.sampled_from([None, None, "a", "b", "c"]),
    pause=st.sampled_from([0, 0, 1, 20, 200]),
    patience=st.sampled_from([None, None, None, 0, 3, 50]),
)
STEPS = st.lists(HITS | st.builds(Kill), min_size=1, max_size=40)


@pytest.mark.parametrize("overlapping", [False, True])
async def test_whatever_comes_the_books_are_right(
    shared: Database, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch, overlapping: bool
) -> None:
    sessions = 6 if overlapping else 1
    first, second = make_app(LANE_BATCH_SIZE=4, LANE_POOL_SIZE=sessions), make_app(LANE_TRANSACTIONS=sessions)
    if overlapping:  # the next transaction begins as soon as a hit waits
        monkeypatch.setattr(Pace, "seconds", lambda _pace, _in_flight: 0.0)
        monkeypatch.setattr(Pace, "overlaps", True)
    async with first.test_app(), second.test_app():

        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
        @given(STEPS)
        def run(steps: list[Hit | Kill]) -> None:
            asyncio.run_coroutine_threadsafe(check(shared, [first, second], steps), loop).result(60)

        loop = asyncio.get_running_loop()
        await asyncio.to_thread(run)


async def check(database: Database, workers: list[App], steps: list[Hit | Kill]) -> None:
    name = f"c-{uuid.uuid4().hex}"
    answered: list[tuple[Hit, Receipt]] = []
    begun_after: dict[int, int] = {}
    tasks: list[tuple[Hit, asyncio.Task[Receipt]]] = []

    async def hit(one: Hit) -> Receipt:
        receipt: Receipt = await workers[one.worker].extensions["lanes"].hit(name, one.amount, one.key, create=True)
        if one.key is None:
            assert receipt.first > begun_after[id(one)], "a hit got no higher number than one answered before it began"
        answered.append((one, receipt))
        return receipt

    for step in steps:
        if isinstance(step, Kill):
            await asyncio.to_thread(database.kill_connections)
            continue
        await turns(step.pause)
        begun_after[id(step)] = max((receipt.last for _, receipt in answered), default=0)
        task = asyncio.create_task(hit(step))
        tasks.append((step, task))
        if step.patience is not None:
            await turns(step.patience)
            task.cancel()
    outcomes = await asyncio.gather(*(task for _, task in tasks), return_exceptions=True)
    for one, outcome in zip((one for one, _ in tasks), outcomes, strict=True):
        refused_rightly = isinstance(outcome, IdempotencyKeyReused) and one.key is not None
        left = isinstance(outcome, asyncio.CancelledError) and one.patience is not None
        # A session that is killed while it logs in has done nothing: 503, which the sum below takes at its word.
        away = isinstance(outcome, Unavailable) and Kill() in steps
        assert isinstance(outcome, Receipt) or refused_rightly or left or away, repr(outcome)
    by_key = {key: {receipt for one, receipt in answered if one.key == key} for key in ("a", "b", "c")}
    assert all(len(receipts) <= 1 for receipts in by_key.values())
    numbers = [(r.first, r.last) for one, r in answered if one.key is None]
    numbers += [(r.first, r.last) for receipts in by_key.values() for r in receipts]
    numbers.sort()
    assert all(before[1] < after[0] for before, after in pairwise(numbers))
    await until_idle()
    if database.execute("SELECT 1 FROM counter WHERE name = %s", name):
        total = audit(database, name)
        left_amount = sum(
            one.amount
            for one, outcome in zip((o for o, _ in tasks), outcomes, strict=True)
            if isinstance(outcome, asyncio.CancelledError)
        )
        told = sum(last - first + 1 for first, last in numbers)
        assert told <= total <= told + left_amount


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def until_idle() -> None:
    """Returns when the lanes have ended what their clients may have left."""
    async with asyncio.timeout(30):
        while any(task.get_name().startswith("lane ") for task in asyncio.all_tasks()):
            await asyncio.sleep(0.01)
