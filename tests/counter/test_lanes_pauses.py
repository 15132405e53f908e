"""The database, or a worker, is paused for longer than every time-out beside four transactions in flight."""

import asyncio
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import psutil
import pytest

from harness.databases import Database, make_database, private_mariadb
from harness.load import get
from harness.processes import Hypercorn, wait_until
from harness.proxy import delayed, proxy
from service.counter.batch import Receipt
from service.counter.lanes import Lanes
from service.platform.database import Unavailable
from tests.conftest import SECRET_KEY, MakeApp, Start, migrate
from tests.counter.audit import audit
from tests.counter.page import number_in
from tests.counter.shared import *  # noqa: F403  # fixtures
from tests.counter.test_lanes_faults import held, lanes_behind
from tests.counter.test_lanes_overlap import at_once, fly, in_flight, until  # noqa: F401  # a fixture
from tests.counter.test_lanes_properties import until_idle

pytestmark = pytest.mark.any_database

TIMES = {
    "DB_CONNECT_TIMEOUT": 1,
    "DB_LOCK_TIMEOUT": 2,
    "DB_STATEMENT_TIMEOUT": 2.5,
    "DB_POOL_TIMEOUT": 3,
    "REQUEST_TIMEOUT": 4,
    "BODY_TIMEOUT": 1,
    "DB_IDLE_TIMEOUT": 5,
}
PAUSE = 1.3 * max(TIMES.values())
"""Seconds; longer than each of them."""

FAR = 0.01
"""Seconds each way, far enough for transactions to overlap."""


@pytest.fixture(scope="module")  # type: ignore[no-redef]  # instead of the one that is imported
def shared(plain_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """A database on a server of this file's own, whose process can be paused."""
    with private_mariadb(tmp_path_factory.mktemp("mariadb")) as server:
        database = make_database(server)
        migrate({**plain_environment, **database.environment, "SECRET_KEY": SECRET_KEY})
        yield database


@contextmanager
def paused(process: psutil.Process) -> Iterator[None]:
    process.send_signal(signal.SIGSTOP)
    try:
        wait_until(lambda: process.status() == psutil.STATUS_STOPPED)
        yield
    finally:
        process.send_signal(signal.SIGCONT)


def database_process(database: Database) -> psutil.Process:
    assert database.server.process is not None
    return psutil.Process(database.server.process.pid)


def send(lanes: Lanes, name: str, amount: int = 1, key: str | None = None) -> "asyncio.Task[Receipt]":
    return asyncio.create_task(lanes.hit(name, amount, key))


async def assert_idle(lanes: Lanes) -> None:
    """Fails unless nothing is left of what the lanes did."""
    await until_idle()
    assert not lanes.lost
    assert lanes._capacity.waiting == 0
    assert lanes.connections.spare == lanes.settings.lane_pool_size


async def outcomes_of(tasks: "list[asyncio.Task[Receipt]]") -> list[Receipt]:
    """Returns the receipts; the others may only have been refused, which means that they were not counted."""
    async with asyncio.timeout(30):
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(outcome, Receipt | Unavailable) for outcome in outcomes), outcomes
    return [outcome for outcome in outcomes if isinstance(outcome, Receipt)]


def numbers_of(receipts: list[Receipt]) -> list[int]:
    return sorted(number for one in set(receipts) for number in range(one.first, one.last + 1))


@pytest.mark.parametrize("stranger_leaves", ["during the pause", "after the pause"])
async def test_a_database_paused_for_longer_than_every_time_out_beside_four_in_flight_loses_no_number(
    shared: Database,
    name: str,
    make_app: MakeApp,
    at_once: None,  # noqa: F811
    stranger_leaves: str,
) -> None:
    async with proxy(shared.server.port) as here, lanes_behind(here, make_app, **TIMES) as lanes:
        assert (await lanes.hit(name)).last == 1
        with ExitStack() as stranger:
            stranger.enter_context(held(shared, name))
            tasks = await fly(lanes, name, (1, None), (2, "a"), (3, None), (1, "b"))
            with paused(database_process(shared)):
                tasks += [send(lanes, name, amount, key) for amount, key in [(1, None), (2, "a"), (1, "c"), (1, None)]]
                if stranger_leaves == "during the pause":
                    stranger.close()
                await asyncio.sleep(PAUSE)
                assert not tasks[0].done(), "a hit that may have been counted is answered by its receipt only"
                tasks += [send(lanes, name, 1, "c"), send(lanes, name)]
        receipts = await outcomes_of(tasks)
        assert len(receipts) >= 4, "those that may have been counted"
        async with asyncio.timeout(20):
            keyed = [await lanes.hit(name, 2, "a"), await lanes.hit(name, 1, "b"), await lanes.hit(name, 1, "c")]
        assert len({receipt.key for receipt in receipts} | {receipt.key for receipt in keyed}) >= 5
        assert numbers_of([*receipts, *keyed]) == list(range(2, audit(shared, name) + 1))
        await assert_idle(lanes)


async def test_pauses_of_the_database_beside_four_in_flight_keep_the_order_and_wake_everyone(
    shared: Database,
    name: str,
    make_app: MakeApp,
    at_once: None,  # noqa: F811
) -> None:
    receipts: list[Receipt] = []
    ended = asyncio.Event()

    async def client(number: int, lanes: Lanes) -> None:
        turn = 0
        while not ended.is_set():
            turn += 1
            await asyncio.sleep(number / 1000)  # so that they do not all join one batch
            key = f"{number}-{turn}" if number % 2 else None
            highest = max((receipt.last for receipt in receipts), default=0)
            while True:
                try:
                    receipt = await lanes.hit(name, 1, key)
                except Unavailable:
                    await asyncio.sleep(0.01)  # as a client would that is told Retry-After
                else:
                    break
            assert receipt.first > highest, "no higher than one that was answered before it was first sent"
            receipts.append(receipt)

    async with proxy(shared.server.port) as here, lanes_behind(here, make_app, **TIMES) as lanes:
        here.delay = FAR
        async with asyncio.timeout(50), asyncio.TaskGroup() as group:
            for number in range(30):
                group.create_task(client(number, lanes))
            for _ in range(2):
                await until(lambda: in_flight(lanes, name) == 4)
                with paused(database_process(shared)):
                    await asyncio.sleep(PAUSE)
                    before = len(receipts)
                await until(lambda before=before: len(receipts) > before + 200)  # type: ignore[misc]
            ended.set()
        assert sorted(receipt.last for receipt in receipts) == list(range(1, audit(shared, name) + 1))
        await assert_idle(lanes)


@dataclass
class Clients:
    """Each hit has a key, and is sent again until it has a number; counts the statuses, 0 being a lost connection."""

    service: Hypercorn
    statuses: Counter[int] = field(default_factory=Counter)

    async def hit(self, key: str) -> int:
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.service.port)
                try:
                    status, body = await get(reader, writer, "127.0.0.1", key)
                finally:
                    writer.close()
            except (OSError, EOFError):
                status, body = 0, ""
            self.statuses[status] += 1
            if status == 200:
                return number_in(body)
            await asyncio.sleep(0.05)


def waiting_for_the_row(database: Database) -> int:
    ((_, count),) = database.server.execute("SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'")
    return int(count)


@pytest.mark.parametrize("stranger_leaves", ["during the pause", "after the pause"])
async def test_a_worker_paused_for_longer_than_every_time_out_beside_four_in_flight_tells_no_lie(
    shared: Database, start: Start, stranger_leaves: str
) -> None:
    service = start(workers=1, LANE_POOL_SIZE=8, **TIMES)
    clients = Clients(service)
    before = audit(shared)
    unique = f"{stranger_leaves}-{before}".replace(" ", "-")
    assert await clients.hit(f"{unique}-first") == before + 1
    sent: list[asyncio.Task[int]] = []
    (worker,) = service.workers()
    with ExitStack() as stranger:
        stranger.enter_context(held(shared, "page"))
        for number in range(4):
            sent += [asyncio.create_task(clients.hit(f"{unique}-{number}-{one}")) for one in range(3)]
            await until(lambda number=number: waiting_for_the_row(shared) > number)  # type: ignore[misc]
        with paused(worker):
            # One of those in flight comes again, and one that is new waits in the socket.
            sent += [asyncio.create_task(clients.hit(f"{unique}-{key}")) for key in ("0-0", "new")]
            if stranger_leaves == "during the pause":
                stranger.close()
            await asyncio.sleep(PAUSE)
    async with asyncio.timeout(30):
        numbers = await asyncio.gather(*sent)
        assert numbers[-2] == numbers[0]
        del numbers[-2]
        assert sorted(numbers) == list(range(before + 2, before + 2 + len(numbers)))
        assert await clients.hit(f"{unique}-last") == before + 2 + len(numbers)
    assert set(clients.statuses) <= {200, 503, 504, 0}, clients.statuses
    assert audit(shared) == before + 2 + len(numbers)
    assert not service.logged("Traceback")


async def test_workers_paused_in_turn_beside_others_that_count_break_no_guarantee(
    shared: Database, start: Start
) -> None:
    with delayed(shared.server.port, FAR) as port:
        service = start(workers=2, DB_PORT=port, **TIMES)
        clients, before, ended = Clients(service), audit(shared), asyncio.Event()
        numbers: list[int] = []

        async def client(own: int) -> None:
            turn = 0
            while not ended.is_set():
                turn += 1
                highest = max(numbers, default=0)
                number = await clients.hit(f"turns-{before}-{own}-{turn}")
                assert number > highest, "no higher than one that was answered before it was first sent"
                numbers.append(number)

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for own in range(40):
                group.create_task(client(own))
            await until(lambda: len(numbers) > 400)
            for worker in service.workers():
                with paused(worker):
                    await asyncio.sleep(PAUSE)
                    told = len(numbers)
                await until(lambda told=told: len(numbers) > told + 200)  # type: ignore[misc]
            ended.set()
        assert sorted(numbers) == list(range(before + 1, audit(shared) + 1))
        assert set(clients.statuses) <= {200, 503, 504, 0}, clients.statuses
        assert not service.logged("Traceback")


async def test_hits_with_an_empty_body_are_counted_by_a_worker_paused_for_longer_than_the_body_time_out(
    shared: Database, start: Start
) -> None:
    """As browsers send them. A pause in the midst of a request is needed, so there are several under load."""
    service = start(workers=1, API_TOKENS_REQUIRED="false", **{**TIMES, "BODY_TIMEOUT": 0.2})
    before, statuses, ended = audit(shared), Counter[str](), asyncio.Event()
    (worker,) = service.workers()

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        while not ended.is_set():
            writer.write(b"POST /counters/page/hits HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            statuses[head.split()[1]] += 1
            await reader.readexactly(int(head.lower().partition("content-length:")[2].split()[0]))
        writer.close()

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for _ in range(40):
            group.create_task(client())
        for _ in range(10):
            answered = statuses.total()
            await until(lambda answered=answered: statuses.total() > answered + 100)  # type: ignore[misc]
            with paused(worker):
                await asyncio.sleep(0.3)
        ended.set()
    assert statuses == {"200": audit(shared) - before}
