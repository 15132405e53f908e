import asyncio

import pytest

from harness.databases import Database
from harness.proxy import Cut, proxy
from service.platform.database import Unavailable
from service.platform.metrics import registry
from tests.conftest import MakeApp
from tests.counter.shared import *  # noqa: F403  # fixtures
from tests.counter.test_lanes_faults import COUNT, held, lanes_behind

pytestmark = pytest.mark.any_database

COUNTED = (
    "counter_hits_total",
    "counter_replays_total",
    "counter_transaction_hits_count",
    "counter_transaction_hits_sum",
    "counter_queue_wait_seconds_count",
    "counter_transaction_seconds_count",
    "counter_transaction_lock_seconds_count",
    "counter_transaction_retries_total",
    "counter_unknown_commits_resolved_total",
)


def value(name: str, **labels: str) -> float:
    found = registry.get_sample_value(name, labels)
    assert found is not None, name
    return found


def counted() -> dict[str, float]:
    return {name: value(name) for name in COUNTED}


def more_than(before: dict[str, float]) -> dict[str, float]:
    """Returns what has been counted since."""
    return {name: now - before[name] for name, now in counted().items() if now != before[name]}


async def test_hits_replays_and_commits_of_an_unknown_outcome_are_counted(
    shared: Database, name: str, make_app: MakeApp
) -> None:
    async with proxy(shared.server.port) as here, lanes_behind(here, make_app) as lanes:
        before = counted()
        await lanes.hit(name, 5, key="a")
        of_one = {
            "counter_transaction_hits_count": 1,
            "counter_transaction_hits_sum": 1,
            "counter_queue_wait_seconds_count": 1,
            "counter_transaction_seconds_count": 1,
            "counter_transaction_lock_seconds_count": 1,
        }
        assert more_than(before) == {"counter_hits_total": 5, **of_one}
        before = counted()
        await lanes.hit(name, 5, key="a")
        assert more_than(before)["counter_replays_total"] == 1
        assert "counter_hits_total" not in more_than(before)
        before = counted()
        here.cuts.append(Cut(COUNT, "answered"))
        await asyncio.gather(lanes.hit(name), lanes.hit(name, 5, key="a"), lanes.hit(name, 3, key="b"))
        found = more_than(before)
        assert found["counter_hits_total"] == 1 + 3
        assert found["counter_transaction_retries_total"] == 1
        assert found["counter_unknown_commits_resolved_total"] == 1


async def test_what_waits_is_shown_and_what_the_queue_refuses_is_counted(
    shared: Database, name: str, make_app: MakeApp
) -> None:
    async with proxy(shared.server.port) as here, lanes_behind(here, make_app, LANE_QUEUE_SIZE=2) as lanes:
        full = value("counter_refused_hits_total", reason="queue_full")
        with held(shared, name):
            hits = [asyncio.create_task(lanes.hit(name))]
            while value("counter_transactions_in_flight") < 1:
                await asyncio.sleep(0)
            hits += [asyncio.create_task(lanes.hit(name)) for _ in range(2)]
            while value("counter_queue_hits") < 2:
                await asyncio.sleep(0)
            assert value("counter_connections_in_use") == 1
            assert value("counter_connections_size") == lanes.connections.size
            with pytest.raises(Unavailable):
                await lanes.hit(name)
            assert value("counter_refused_hits_total", reason="queue_full") == full + 1
        await asyncio.gather(*hits)
        assert value("counter_queue_hits") == 0
