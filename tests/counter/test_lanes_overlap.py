"""Transactions of one lane overlap: at least four are in flight, on the real database, and G1 to G6 hold."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

import pytest

from harness.databases import Database
from harness.proxy import Cut, Proxy, proxy
from service.counter.batch import Batch, Receipt
from service.counter.connections import LaneConnection, LaneConnections
from service.counter.errors import CounterFull, IdempotencyKeyReused, NoSuchCounter
from service.counter.lane import Lane
from service.counter.lanes import Lanes
from service.counter.pace import Pace
from service.counter.tables import LARGEST
from service.platform.database import OutcomeUnknown, Unavailable
from tests.conftest import MakeApp
from tests.counter.audit import audit
from tests.counter.shared import *  # noqa: F403  # fixtures
from tests.counter.test_counter_metrics import value
from tests.counter.test_lanes_faults import CUTS, described, held, lanes_behind
from tests.counter.test_lanes_properties import until_idle

FAR = 0.02
"""Seconds each way, far enough for transactions to overlap."""

PATIENT = {"DB_LOCK_TIMEOUT": 8, "DB_STATEMENT_TIMEOUT": 9, "DB_POOL_TIMEOUT": 10}
AMID_OTHERS = {"DB_POOL_TIMEOUT": 23, "REQUEST_TIMEOUT": 25}
"""For a thousand counters at once, while other tests have the processors."""


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next transaction begins as soon as a hit waits, whatever was measured."""
    monkeypatch.setattr(Pace, "seconds", lambda _pace, _in_flight: 0.0)
    monkeypatch.setattr(Pace, "overlaps", True)


def spied(monkeypatch: pytest.MonkeyPatch, owner: type, method: str) -> list[None]:
    """Returns a list that grows with each call of the method, which fails in the end: a lane may call it for ever."""
    calls: list[None] = []
    called = getattr(owner, method)

    def spy(*given: Any, **named: Any) -> Any:
        calls.append(None)
        assert len(calls) < 10_000
        return called(*given, **named)

    monkeypatch.setattr(owner, method, spy)
    return calls


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


async def one_stuck(
    lanes: Lanes, name: str, monkeypatch: pytest.MonkeyPatch
) -> "tuple[asyncio.Task[Receipt], asyncio.Event]":
    """Sends a hit whose transaction stops before its UPDATE; returns it, and the event with which it goes on."""
    count, goes_on = LaneConnection.count, asyncio.Event()

    async def count_later(connection: LaneConnection, *given: Any) -> int | None:
        monkeypatch.setattr(LaneConnection, "count", count)
        await goes_on.wait()
        return await count(connection, *given)

    monkeypatch.setattr(LaneConnection, "count", count_later)
    stuck = asyncio.create_task(lanes.hit(name))
    await until(lambda: LaneConnection.count is count)
    return stuck, goes_on


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
    async with far_lanes(shared, make_app, **AMID_OTHERS) as (lanes, here), pressed(lanes, name) as receipts:
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


async def test_the_next_begins_beside_one_in_flight_no_sooner_than_the_pace_says(
    shared: Database, name: str, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    pace = 1000.0
    monkeypatch.setattr(Pace, "seconds", lambda _pace, _in_flight: pace)
    async with proxy(shared.server.port) as here, lanes_behind(here, make_app, **PATIENT) as lanes:
        with held(shared, name):
            sent = [asyncio.create_task(lanes.hit(name))]
            await until(lambda: in_flight(lanes, name) == 1)
            pace = 1.0
            sent.append(asyncio.create_task(lanes.hit(name)))
            for _ in range(50):
                assert in_flight(lanes, name) == 1
                await asyncio.sleep(0.002)
            await until(lambda: in_flight(lanes, name) == 2)
        assert sorted([(await task).last for task in sent]) == [1, 2]


async def test_hits_that_a_full_batch_leaves_in_the_queue_begin_beside_it(
    shared: Database, name: str, make_app: MakeApp, at_once: None
) -> None:
    async with proxy(shared.server.port) as here, lanes_behind(here, make_app, **PATIENT, LANE_BATCH_SIZE=1) as lanes:
        with held(shared, name):
            sent = [asyncio.create_task(lanes.hit(name)) for _ in range(3)]
            await until(lambda: in_flight(lanes, name) == 3)
        assert sorted([(await task).last for task in sent]) == [1, 2, 3]
        assert audit(shared, name) == 3


async def test_hits_with_the_key_of_one_in_flight_wait_for_its_receipt(
    shared: Database, name: str, make_app: MakeApp, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    recoveries = spied(monkeypatch, Lane, "_recover")
    begun = spied(monkeypatch, Lane, "_process")
    many = {**PATIENT, "LANE_POOL_SIZE": 8, "LANE_TRANSACTIONS": 6}
    async with proxy(shared.server.port) as here, lanes_behind(here, make_app, **many) as lanes:
        with held(shared, name):
            first = await fly(lanes, name, (1, "a"), (1, None))
            plain = asyncio.create_task(lanes.hit(name))
            again = [asyncio.create_task(lanes.hit(name, 1, "a")) for _ in range(3)]
            other = asyncio.create_task(lanes.hit(name, 2, "a"))
            await until(lambda: in_flight(lanes, name) == 3)
            for _ in range(50):
                await asyncio.sleep(0.002)
                assert len(lanes._lanes[name].queue) == 4
            assert len(begun) == 3, "a session was taken for nothing"
        a, none, *receipts = await asyncio.gather(*first, *again)
        assert set(receipts) == {a}
        assert len({a.last, none.last, (await plain).last}) == 3
        with pytest.raises(IdempotencyKeyReused):
            await other
        assert audit(shared, name) == 3
        assert not recoveries, "a transaction was rolled back"


@contextmanager
def another_lost_at_the_lock(
    lanes: Lanes, name: str, monkeypatch: pytest.MonkeyPatch, before: Callable[[], object] = lambda: None
) -> Iterator[None]:
    """While a recovery asks for the row, `before` runs and another batch loses its connection."""
    lock = LaneConnection.lock

    async def lock_while_another_is_lost(connection: LaneConnection, counter_id: int) -> int | None:
        await asyncio.to_thread(before)
        lanes._lanes[name].lost.add("tally:another")
        return await lock(connection, counter_id)

    with monkeypatch.context() as patch:
        patch.setattr(LaneConnection, "lock", lock_while_another_is_lost)
        yield


async def test_a_recovery_forgets_no_connection_that_another_batch_loses_meanwhile(
    shared: Database, name: str, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with proxy(shared.server.port) as here, lanes_behind(here, make_app) as lanes:
        with another_lost_at_the_lock(lanes, name, monkeypatch):
            here.cuts = [Cut("UPDATE counter", "sent")]
            assert (await lanes.hit(name)).last == 1
            await until_idle()
        assert lanes.lost[name] == {"tally:another"}
        assert (await lanes.hit(name)).last == 2
        await until_idle()
        assert not lanes.lost


async def test_a_recovery_that_finds_the_counter_deleted_forgets_no_connection_that_is_lost_meanwhile(
    shared: Database, name: str, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with proxy(shared.server.port) as here, lanes_behind(here, make_app) as lanes:
        delete = partial(shared.execute, "DELETE FROM counter WHERE name = %s", name)
        with another_lost_at_the_lock(lanes, name, monkeypatch, delete):
            here.cuts = [Cut("UPDATE counter", "within")]
            with pytest.raises(OutcomeUnknown):
                await lanes.hit(name)
            await until_idle()
        assert lanes.lost[name] == {"tally:another"}
        assert (await lanes.hit(name, create=True)).last == 1
        await until_idle()
        assert not lanes.lost


async def test_a_batch_in_doubt_takes_no_number_of_a_counter_that_was_deleted_meanwhile(
    shared: Database, name: str, make_app: MakeApp, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another batch of the lane knows the new counter already, and a receipt of the old one may be left."""
    recover, goes_on = Lane._recover, asyncio.Event()

    async def recover_later(lane: Lane, connection: LaneConnection, batch: Batch) -> bool:
        if batch.in_doubt:
            await goes_on.wait()
        return await recover(lane, connection, batch)

    monkeypatch.setattr(Lane, "_recover", recover_later)
    async with proxy(shared.server.port) as here, lanes_behind(here, make_app, **PATIENT) as lanes:
        assert (await lanes.hit(name, 50)).last == 50
        here.cuts = [Cut("UPDATE counter", "answered", results=3)]  # it is committed
        in_doubt = asyncio.create_task(lanes.hit(name))
        await until(lambda: lanes._lanes[name].lost if name in lanes._lanes else False)
        assert audit(shared, name) == 51
        shared.execute("DELETE FROM counter WHERE name = %s", name)
        assert (await lanes.hit(name, create=True)).last == 1
        goes_on.set()
        with pytest.raises(OutcomeUnknown):
            await in_doubt
        assert (await lanes.hit(name)).last == 2 == audit(shared, name)


async def test_a_hit_that_may_make_the_counter_lets_no_later_hit_make_it(
    shared: Database, name: str, make_app: MakeApp, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with proxy(shared.server.port) as here, lanes_behind(here, make_app, **PATIENT) as lanes:
        stuck, goes_on = await one_stuck(lanes, name, monkeypatch)  # until its end, all are in one lane
        assert (await lanes.hit(name, create=True)).last == 1
        shared.execute("DELETE FROM counter WHERE name = %s", name)
        later = asyncio.create_task(lanes.hit(name))
        await asyncio.wait([later])
        goes_on.set()
        for hit in later, stuck:
            with pytest.raises(NoSuchCounter):
                await hit


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
            await until(lambda: any("DELETE FROM counter" in (one["Info"] or "") for one in shared.processes()))
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
        late = value("counter_refused_hits_total", reason="queue_late")
        with held(shared, name):
            sent = await fly(lanes, name, *[(1, None)] * 4)
            with pytest.raises(Unavailable, match="waited too long"):
                await lanes.hit(name)
        assert value("counter_refused_hits_total", reason="queue_late") == late + 1
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
            for _ in range(100):
                await asyncio.sleep(0.002)
                assert len(here.cuts) == 2, "it tries again at once"
        assert sorted([(await task).last for task in sent]) == list(range(1, 12))
        here.cuts.clear()
        assert audit(shared, name) == 11


async def test_a_session_that_is_long_in_coming_keeps_nobody_waiting_when_the_one_in_flight_has_ended(
    shared: Database, name: str, make_app: MakeApp, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect, comes = LaneConnections._connect, asyncio.Event()

    async def connect_later(connections: LaneConnections) -> Any:
        monkeypatch.setattr(LaneConnections, "_connect", connect)
        await comes.wait()
        return await connect(connections)

    async with proxy(shared.server.port) as here, lanes_behind(here, make_app, **PATIENT) as lanes:
        with held(shared, name):
            sent = await fly(lanes, name, (1, None))
            monkeypatch.setattr(LaneConnections, "_connect", connect_later)
            sent.append(asyncio.create_task(lanes.hit(name)))
            await until(lambda: len(lanes._lanes[name]._open) == 2)
            monkeypatch.setattr(Pace, "seconds", lambda _pace, _in_flight: 1000.0)
        assert [(await task).last for task in sent] == [1, 2]
        comes.set()
        await until_idle()
        assert audit(shared, name) == 2


async def test_two_that_find_no_session_do_not_take_each_other_for_one_in_flight(
    shared: Database, name: str, make_app: MakeApp, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts, first_fails = 0, asyncio.Event()

    async def fail(_: LaneConnections) -> Any:
        nonlocal attempts
        attempts += 1
        await (first_fails.wait() if attempts == 1 else asyncio.sleep(0.01))
        raise OSError("no way there")

    async with proxy(shared.server.port) as here, lanes_behind(here, make_app, **PATIENT) as lanes:
        with held(shared, name):
            sent = await fly(lanes, name, (1, None))
            monkeypatch.setattr(LaneConnections, "_connect", fail)
            waits = asyncio.create_task(lanes.hit(name))
            await until(lambda: attempts == 1)
        assert (await sent[0]).last == 1
        first_fails.set()
        with pytest.raises(Unavailable, match="no way there"):
            await waits
        await until_idle()
        assert attempts <= 4
        assert lanes.connections.spare == lanes.settings.lane_pool_size


async def test_a_hit_that_finds_no_session_free_beside_a_stuck_one_is_counted_when_one_is_free(
    shared: Database, name: str, make_app: MakeApp, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared.execute("INSERT INTO counter (name, count) VALUES (%s, 0)", f"{name}-2")
    own = {**PATIENT, "LANE_POOL_SIZE": 3}
    async with proxy(shared.server.port) as here, lanes_behind(here, make_app, **own) as lanes:
        await lanes.hit(name)
        stuck, goes_on = await one_stuck(lanes, name, monkeypatch)
        with held(shared, f"{name}-2"):
            sent = await fly(lanes, f"{name}-2", (1, None))
            assert lanes.connections.spare == 1
            waits = asyncio.create_task(lanes.hit(name))
            for _ in range(50):
                await asyncio.sleep(0.002)
                assert in_flight(lanes, name) == 1
        assert (await sent[0]).last == 1
        assert (await waits).last == 2
        assert not stuck.done()
        goes_on.set()
        assert (await stuck).last == 3 == audit(shared, name)


async def test_a_hit_that_waits_behind_a_stuck_one_is_counted_when_its_time_comes_after_another_has_ended(
    shared: Database, name: str, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    pace = 0.0
    monkeypatch.setattr(Pace, "seconds", lambda _pace, _in_flight: pace)
    own = {**PATIENT, "LANE_TRANSACTIONS": 2}
    async with proxy(shared.server.port) as here, lanes_behind(here, make_app, **own) as lanes:
        await lanes.hit(name)
        stuck, goes_on = await one_stuck(lanes, name, monkeypatch)
        with held(shared, name):
            sent = await fly(lanes, name, (1, None))
            pace = 1.0
            sent.append(asyncio.create_task(lanes.hit(name)))
            await asyncio.sleep(0)
            assert len(lanes._lanes[name].queue) == 1
        assert (await sent[0]).last == 2
        for _ in range(50):
            await asyncio.sleep(0.002)
            assert not sent[1].done(), "sooner than the pace says"
        assert (await sent[1]).last == 3
        assert not stuck.done()
        goes_on.set()
        assert (await stuck).last == 4 == audit(shared, name)


async def test_lanes_that_may_not_begin_another_look_again_now_and_then_only(
    shared: Database, name: str, make_app: MakeApp, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many do so where the sessions are few: they would keep the worker from its work."""
    looks = spied(monkeypatch, Lane, "_begin_another")
    shared.execute("INSERT INTO counter (name, count) VALUES (%s, 0)", f"{name}-2")
    own = {**PATIENT, "LANE_POOL_SIZE": 1}
    async with proxy(shared.server.port) as here, lanes_behind(here, make_app, **own) as lanes:
        with held(shared, name):
            sent = await fly(lanes, name, (1, None))
            for one in (name, f"{name}-2", f"{name}-2"):
                sent.append(asyncio.create_task(lanes.hit(one)))
                await asyncio.sleep(0.01)
            before = len(looks)
            await asyncio.sleep(0.5)
            assert 0 < len(looks) - before < 1000
        assert sorted([(await task).last for task in sent]) == [1, 1, 2, 2]


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
    shared: Database, name: str, make_app: MakeApp, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    recoveries = spied(monkeypatch, Lane, "_recover")
    async with proxy(shared.server.port) as here, lanes_behind(here, make_app, **PATIENT) as lanes:
        kills = 0
        receipts: list[Receipt] = []

        async def kill() -> None:
            nonlocal kills
            while kills < 15 or ((len(recoveries) <= 5 or len(receipts) <= 30) and kills < 300):
                await asyncio.to_thread(shared.kill_connections)
                kills += 1
                await asyncio.sleep(0.02)

        killing = asyncio.create_task(kill())

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
        assert audit(shared, name) == len(numbers) > 30
        assert len(recoveries) > 5
