"""Transactions of one lane overlap: at least four are in flight, on the real database, and G1 to G6 hold."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from harness.databases import Database
from harness.proxy import Cut, Proxy, proxy
from service.counter.batch import Receipt
from service.counter.connections import LaneConnection
from service.counter.errors import CounterFull, IdempotencyKeyReused, NoSuchCounter
from service.counter.lanes import Lane, Lanes
from service.counter.pace import Pace
from service.counter.tables import LARGEST
from service.platform.database import Unavailable
from tests.conftest import MakeApp
from tests.counter.audit import audit
from tests.counter.shared import *  # noqa: F403  # fixtures
from tests.counter.test_lanes_faults import CUTS, described, held, lanes_behind
from tests.counter.test_lanes_properties import until_idle

FAR = 0.02
"""Seconds each way, far enough for transactions to overlap."""

PATIENT = {"DB_LOCK_TIMEOUT": 8, "DB_STATEMENT_TIMEOUT": 9, "DB_POOL_TIMEOUT": 10}


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next transaction begins as soon as a hit waits, whatever was measured."""
    monkeypatch.setattr(Pace, "seconds", lambda _pace, _in_flight: 0.0)
    monkeypatch.setattr(Pace, "overlaps", True)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.002)


def in_flight(lanes: Lanes, name: str) -> int:
    lane: Lane | None = lanes._lanes.get(name)
    return sum(batch.is_filled for batch in lane._open) if lane else 0


async def fly(lanes: Lanes, name: str, *hits: tuple[int, str | None]) -> "list[asyncio.Task[Receipt]]":
    """Sends hits, each in a transaction of its own that is in flight when this returns: the row must be held."""
    sent = []
    for amount, key in hits:
        before = in_flight(lanes, name)
        sent.append(asyncio.create_task(lanes.hit(name, amount, key)))
        await until(lambda before=before: in_flight(lanes, name) > before)  # type: ignore[misc]
    return sent


@asynccontextmanager
async def far_lanes(shared: Database, make_app: MakeApp, **settings: Any) -> AsyncIterator[tuple[Lanes, Proxy]]:
    """A worker's lanes whose database is FAR away; the proxy's delay can be changed."""
    async with proxy(shared.server.port) as here, lanes_behind(here, make_app, **{**PATIENT, **settings}) as lanes:
        here.delay = FAR
        yield lanes, here


@asynccontextmanager
async def pressed(lanes: Lanes, name: str, clients: int = 40) -> AsyncIterator[list[Receipt]]:
    """Counts with so many clients during the block; gives the receipts. Each thinks for a time of its own."""
    receipts: list[Receipt] = []
    ended = asyncio.Event()

    async def client(number: int) -> None:
        while not ended.is_set():
            await asyncio.sleep(number / 1000)
            highest = max((receipt.last for receipt in receipts), default=0)
            receipt = await lanes.hit(name)
            assert receipt.first > highest, "no higher than one that was answered before it began"
            receipts.append(receipt)

    async with asyncio.timeout(40), asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(client(number))
        try:
            yield receipts
        finally:
            ended.set()
    assert sorted(receipt.first for receipt in receipts) == list(range(1, len(receipts) + 1))


@pytest.mark.parametrize("cuts", [pytest.param(cuts, id=described(cuts)) for cuts in CUTS])
async def test_a_connection_lost_beside_three_in_flight_costs_no_number_and_gives_none_twice(
    cuts: list[Cut], shared: Database, name: str, make_app: MakeApp, at_once: None
) -> None:
    many = {**PATIENT, "LANE_POOL_SIZE": 8, "LANE_TRANSACTIONS": 6}
    async with proxy(shared.server.port) as here, lanes_behind(here, make_app, **many) as lanes:
        assert (await lanes.hit(name)).last == 1
        sent: list[tuple[int, str | None]] = [(1, None), (1, "a"), (3, None), (2, "b"), (1, "a")]
        with held(shared, name):
            before = await fly(lanes, name, (1, None), (5, "before"), (1, None))
            here.cuts = [Cut(cut.statement, cut.moment, cut.results) for cut in cuts]
            if cuts[0].statement == "SELECT id FROM counter":
                lanes._ids.clear()
            tasks = [asyncio.create_task(lanes.hit(name, amount, key)) for amount, key in sent]
            left = len(cuts) - (cuts[0].results == 0 and cuts[0].moment in {"before", "within", "sent"})
            await until(lambda: len(here.cuts) <= left or in_flight(lanes, name) >= 4)
        receipts = await asyncio.gather(*before, *tasks)
        assert receipts[4] == receipts[7] == await lanes.hit(name, 1, "a")
        assert receipts[6] == await lanes.hit(name, 2, "b")
        numbers = sorted({(receipt.first, receipt.last) for receipt in receipts})
        assert [n for first, last in numbers for n in range(first, last + 1)] == list(range(2, 16))
        here.cuts.clear()
        await until_idle()
        assert audit(shared, name) == 15
        assert not lanes.lost
        assert (await lanes.hit(name)).last == 16


async def test_as_many_as_the_setting_says_are_in_flight_where_the_database_is_far(
    shared: Database, name: str, make_app: MakeApp
) -> None:
    async with far_lanes(shared, make_app, LANE_POOL_SIZE=8, LANE_TRANSACTIONS=4) as (lanes, _):
        most = 0
        async with pressed(lanes, name) as receipts:
            await until(lambda: in_flight(lanes, name) == 4)
            before = len(receipts)
            while len(receipts) < before + 500:
                most = max(most, in_flight(lanes, name))
                await asyncio.sleep(0.001)
        assert most == 4
        assert audit(shared, name) == len(receipts)


async def test_a_setting_of_one_keeps_one_in_flight(shared: Database, name: str, make_app: MakeApp) -> None:
    async with far_lanes(shared, make_app, LANE_TRANSACTIONS=1) as (lanes, _), pressed(lanes, name) as receipts:
        while len(receipts) < 300:
            assert in_flight(lanes, name) <= 1
            await asyncio.sleep(0.001)


async def test_a_database_whose_speed_jumps_is_noticed_and_no_hit_is_left(
    shared: Database, name: str, make_app: MakeApp
) -> None:
    async with far_lanes(shared, make_app) as (lanes, here), pressed(lanes, name) as receipts:
        for delay, overlaps in [(0.0, False), (0.1, True)] * 3:
            here.delay = delay
            await until(lambda overlaps=overlaps: lanes._pace.overlaps == overlaps)  # type: ignore[misc]
            await until(lambda overlaps=overlaps: (in_flight(lanes, name) > 1) == overlaps)  # type: ignore[misc]
            before = len(receipts)
            await until(lambda before=before: len(receipts) > before + 40)  # type: ignore[misc]


async def test_a_busy_counter_on_a_far_database_leaves_sessions_for_a_thousand_quiet_ones(
    shared: Database, name: str, make_app: MakeApp
) -> None:
    quiet = [f"{name}-{number}" for number in range(1000)]
    shared.execute("INSERT INTO counter (name, count) VALUES" + ",".join(f"('{one}', 0)" for one in quiet))
    async with far_lanes(shared, make_app) as (lanes, here), pressed(lanes, name) as receipts:
        await until(lambda: in_flight(lanes, name) == 4)
        assert lanes.connections.spare >= 1
        here.delay = 0.002
        assert {(await hit).last for hit in asyncio.as_completed(lanes.hit(one) for one in quiet)} == {1}
        before = len(receipts)
        await until(lambda: len(receipts) > before)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("bounds", [(3, 6, 2), (8, 3, 3), (2, 6, 1)])
async def test_one_session_stays_free_and_no_more_are_in_flight_than_the_setting_says(
    shared: Database, name: str, make_app: MakeApp, bounds: tuple[int, int, int]
) -> None:
    sessions, transactions, most = bounds
    own = {**PATIENT, "LANE_POOL_SIZE": sessions, "LANE_TRANSACTIONS": transactions}
    async with proxy(shared.server.port) as here, lanes_behind(here, make_app, **own) as lanes:
        with held(shared, name):
            sent = await fly(lanes, name, *[(1, None)] * most)
            sent += [asyncio.create_task(lanes.hit(name)) for _ in range(5)]
            for _ in range(50):
                await asyncio.sleep(0.002)
                assert in_flight(lanes, name) == most
            assert lanes.connections.spare >= 1
        assert sorted([(await task).last for task in sent]) == list(range(1, most + 6))


async def test_hits_with_the_key_of_one_in_flight_wait_for_its_receipt(
    shared: Database, name: str, make_app: MakeApp, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    recover, recoveries = Lane._recover, []

    async def noted(lane: Lane, *given: Any) -> bool:
        recoveries.append(lane.name)
        return await recover(lane, *given)

    monkeypatch.setattr(Lane, "_recover", noted)
    async with proxy(shared.server.port) as here, lanes_behind(here, make_app, **PATIENT) as lanes:
        with held(shared, name):
            first = await fly(lanes, name, (1, "a"))
            plain = asyncio.create_task(lanes.hit(name))
            again = [asyncio.create_task(lanes.hit(name, 1, "a")) for _ in range(3)]
            other = asyncio.create_task(lanes.hit(name, 2, "a"))
            await until(lambda: in_flight(lanes, name) == 2)
            assert len(lanes._lanes[name].queue) == 4
        receipts = await asyncio.gather(*first, *again)
        assert set(receipts) == {receipts[0]}
        assert (await plain).last != receipts[0].last
        with pytest.raises(IdempotencyKeyReused):
            await other
        assert audit(shared, name) == 2
        assert not recoveries, "a transaction was rolled back"


async def test_a_recovery_forgets_no_connection_that_another_batch_loses_meanwhile(
    shared: Database, name: str, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with proxy(shared.server.port) as here, lanes_behind(here, make_app) as lanes:
        lock = LaneConnection.lock

        async def lock_while_another_is_lost(connection: LaneConnection, counter_id: int) -> int | None:
            lanes._lanes[name].lost.add("tally:another")
            return await lock(connection, counter_id)

        with monkeypatch.context() as patch:
            patch.setattr(LaneConnection, "lock", lock_while_another_is_lost)
            here.cuts = [Cut("UPDATE counter", "sent")]
            assert (await lanes.hit(name)).last == 1
            await until_idle()
        assert lanes.lost[name] == {"tally:another"}
        assert (await lanes.hit(name)).last == 2
        await until_idle()
        assert not lanes.lost


async def test_two_workers_with_the_same_new_keys_in_flight_give_each_one_number(
    shared: Database, name: str, make_app: MakeApp, at_once: None
) -> None:
    other_app = make_app(**PATIENT)
    async with (
        proxy(shared.server.port) as here,
        lanes_behind(here, make_app, **PATIENT) as one,
        other_app.test_app(),
    ):
        other = other_app.extensions["lanes"]
        with held(shared, name):
            here_too = await fly(one, name, (1, "a"), (1, None), (1, "b"), (1, "c"))
            there_too = await fly(other, name, (1, "c"), (1, "b"), (1, None), (1, "a"))
        a, none, b, c = await asyncio.gather(*here_too)
        assert [c, b, a] == [await there_too[i] for i in (0, 1, 3)]
        assert len({a, b, c, none, await there_too[2]}) == 5
        assert audit(shared, name) == 5


async def test_a_counter_that_is_deleted_beside_four_in_flight_counts_each_once_or_not_at_all(
    shared: Database, name: str, make_app: MakeApp, at_once: None
) -> None:
    async with proxy(shared.server.port) as here, lanes_behind(here, make_app, **PATIENT) as lanes:
        await lanes.hit(name)
        with held(shared, name):
            sent = await fly(lanes, name, (1, None), (1, "a"), (1, None), (1, "b"))
            deleted = asyncio.create_task(
                asyncio.to_thread(shared.execute, "DELETE FROM counter WHERE name = %s", name)
            )
            await asyncio.sleep(0.2)  # so that it waits behind some of them; where it comes is free
        outcomes = await asyncio.gather(*sent, return_exceptions=True)
        await deleted
        counted = sorted(outcome.last for outcome in outcomes if isinstance(outcome, Receipt))
        assert counted == list(range(2, 2 + len(counted)))
        assert all(isinstance(outcome, Receipt | NoSuchCounter) for outcome in outcomes), outcomes
        assert (await lanes.hit(name, create=True)).last == 1
        assert audit(shared, name) == 1


async def test_the_largest_number_is_given_once_beside_four_in_flight(
    shared: Database, name: str, make_app: MakeApp, at_once: None
) -> None:
    shared.execute("UPDATE counter SET count = %s, start = %s WHERE name = %s", LARGEST - 3, LARGEST - 3, name)
    async with proxy(shared.server.port) as here, lanes_behind(here, make_app, **PATIENT) as lanes:
        with held(shared, name):
            sent = await fly(lanes, name, (1, None), (2, "a"), (2, None), (1, None))
        outcomes = await asyncio.gather(*sent, return_exceptions=True)
        receipts = [outcome for outcome in outcomes if isinstance(outcome, Receipt)]
        assert sum(receipt.last - receipt.first + 1 for receipt in receipts) == 3
        assert {type(outcome) for outcome in outcomes} == {Receipt, CounterFull}
        assert audit(shared, name) == LARGEST


async def test_a_worker_that_ends_answers_all_in_flight_and_all_that_wait(
    shared: Database, name: str, make_app: MakeApp, at_once: None
) -> None:
    async with proxy(shared.server.port) as here, lanes_behind(here, make_app, **PATIENT) as lanes:
        with held(shared, name):
            sent = await fly(lanes, name, *[(1, None)] * 4)
            sent += [asyncio.create_task(lanes.hit(name, 1, f"k{number}")) for number in range(10)]
            await asyncio.sleep(0)
            closing = asyncio.create_task(lanes.close())
        await closing
        assert all(task.done() for task in sent)
        assert sorted(task.result().last for task in sent) == list(range(1, 15))
        assert audit(shared, name) == 14


async def test_a_hit_that_waits_behind_four_that_are_stuck_is_refused_when_its_time_is_up(
    shared: Database, name: str, make_app: MakeApp, at_once: None
) -> None:
    async with (
        proxy(shared.server.port) as here,
        lanes_behind(here, make_app, **{**PATIENT, "DB_POOL_TIMEOUT": 2, "LANE_TRANSACTIONS": 4}) as lanes,
    ):
        with held(shared, name):
            sent = await fly(lanes, name, *[(1, None)] * 4)
            with pytest.raises(Unavailable, match="waited too long"):
                await lanes.hit(name)
        assert sorted([(await task).last for task in sent]) == [1, 2, 3, 4]
        assert audit(shared, name) == 4


async def test_without_a_session_for_a_second_one_the_hits_wait_for_the_first(
    shared: Database, name: str, make_app: MakeApp, at_once: None
) -> None:
    async with proxy(shared.server.port) as here, lanes_behind(here, make_app, **PATIENT) as lanes:
        with held(shared, name):
            sent = await fly(lanes, name, (1, None))
            here.cuts = [Cut("login", "before") for _ in range(3)]
            sent += [asyncio.create_task(lanes.hit(name)) for _ in range(10)]
            await until(lambda: len(here.cuts) < 3)
        assert sorted([(await task).last for task in sent]) == list(range(1, 12))
        here.cuts.clear()
        assert audit(shared, name) == 11


async def test_four_in_flight_that_lose_their_connections_at_once_are_all_recovered(
    shared: Database, name: str, make_app: MakeApp, at_once: None
) -> None:
    async with proxy(shared.server.port) as here, lanes_behind(here, make_app, **PATIENT) as lanes:
        with held(shared, name):
            sent = await fly(lanes, name, (1, None), (1, "a"), (2, None), (1, "b"))
            here.reset()
            await until(lambda: len(lanes._lanes[name].lost) >= 4)
        receipts = [await task for task in sent]
        assert sorted(number for one in receipts for number in range(one.first, one.last + 1)) == [1, 2, 3, 4, 5]
        await until_idle()
        assert not lanes.lost
        assert audit(shared, name) == 5


async def test_all_sessions_killed_again_and_again_beside_many_in_flight_lose_no_number(
    shared: Database, name: str, make_app: MakeApp, at_once: None
) -> None:
    async with proxy(shared.server.port) as here, lanes_behind(here, make_app, **PATIENT) as lanes:
        kills = 0

        async def kill() -> None:
            nonlocal kills
            while kills < 15:
                await asyncio.to_thread(shared.kill_connections)
                kills += 1
                await asyncio.sleep(0.02)

        killing = asyncio.create_task(kill())
        receipts: list[Receipt] = []

        async def client(number: int) -> None:
            turn = 0
            while not killing.done():
                turn += 1
                key = f"{number}-{turn}" if turn % 2 else None
                try:
                    receipt = await lanes.hit(name, 1, key)
                except Unavailable:  # a session that was killed while it logged in: not counted
                    continue
                receipts.append(receipt)

        async with asyncio.TaskGroup() as group:
            for number in range(30):
                group.create_task(client(number))
        await killing
        numbers = sorted(receipt.last for receipt in receipts)
        assert len(set(numbers)) == len(numbers)
        await until_idle()
        assert audit(shared, name) == len(numbers)
