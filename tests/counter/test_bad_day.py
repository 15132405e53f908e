"""A minute of 256 clients, in which the database is killed twice and a worker twice: every guarantee holds."""

import asyncio
import signal
import time
import uuid
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pymysql
import pytest

from harness.databases import Database, DatabaseServer, make_database, private_mariadb
from harness.load import get
from harness.processes import Hypercorn, free_port, hypercorn, is_ready, wait_until
from harness.proxy import delayed
from service.counter.batch import receipt_key
from tests.conftest import SECRET_KEY, migrate
from tests.counter.audit import audit
from tests.counter.page import number_in

CLIENTS = 256


GRACE = 6.0
"""Seconds for which the server may still do what a killed worker has sent: DB_STATEMENT_TIMEOUT, and one more."""


@dataclass
class Hit:
    """What a client knows of a hit: its number, or that it may have been counted. Times are seconds since 1970."""

    key: str | None
    sent: float
    ended: float = 0.0
    number: int | None = None
    unknown: bool = False


class Clients:
    """Half of the hits have a key, and those are sent again until they are answered; the others are sent once."""

    def __init__(self) -> None:
        self.services: list[Hypercorn] = []
        self.hits: list[Hit] = []
        self.statuses: dict[int, int] = {}
        self.open = True

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for i in range(CLIENTS):
                group.create_task(self._client(i))

    async def _client(self, i: int) -> None:
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        turn = 0
        while self.open:
            turn += 1
            hit = Hit(uuid.uuid4().hex if (turn + i) % 2 else None, time.time())
            self.hits.append(hit)
            while hit.number is None:
                if connection is None:
                    connection = await self._connect(i)
                try:
                    status, body = await get(*connection, "127.0.0.1", hit.key)
                except (OSError, EOFError):
                    status, body = 0, ""
                self.statuses[status] = self.statuses.get(status, 0) + 1
                if status == 200:
                    hit.ended, hit.number = time.time(), number_in(body)
                else:
                    connection[1].close()
                    connection = None
                    await asyncio.sleep(0.05)  # as a client would that is told Retry-After
                    if hit.key is None:
                        hit.ended, hit.unknown = time.time(), status != 503
                        break
        if connection:
            connection[1].close()

    async def _connect(self, i: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while True:
            service = self.services[i % len(self.services)]
            with suppress(OSError):
                return await asyncio.open_connection("127.0.0.1", service.port)
            i += 1
            await asyncio.sleep(0.05)


def assert_ordered(hits: list[Hit]) -> None:
    """A hit that was first sent after another was answered has a higher number."""
    by_answer = sorted(hits, key=lambda hit: hit.ended)
    highest, i = 0, 0
    for hit in sorted(hits, key=lambda hit: hit.sent):
        while i < len(by_answer) and by_answer[i].ended < hit.sent:
            highest = max(highest, by_answer[i].number or 0)
            i += 1
        assert hit.number is not None
        assert hit.number > highest, f"{hit.number} was given after {highest} had been answered"


def assert_receipts_say_what_clients_know(database: Database, hits: list[Hit]) -> None:
    """Each key has one receipt, of its number. The others' numbers are those of hits without a key, each given to one
    that was answered, or else at a time at which so many were sent whose outcome is not known."""
    ((counter_id,),) = database.execute("SELECT id FROM counter WHERE name = 'page'")
    time_ = "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', created_at)"
    rows = database.execute(f"SELECT `key`, first, last, {time_} FROM receipt ORDER BY first")
    assert [row[3] for row in rows] == sorted(row[3] for row in rows), "a receipt is older than one before it"
    receipts = {key: (first, last, at / 1e6) for key, first, last, at in rows}
    for hit in hits:
        if hit.key:
            first, last, _ = receipts.pop(receipt_key(counter_id, hit.key))
            assert first == last == hit.number
    given = {hit.number for hit in hits if hit.key is None}
    unknown = [hit for hit in hits if hit.unknown]
    for first, last, at in receipts.values():
        not_given = (last - first + 1) - len(given.intersection(range(first, last + 1)))
        possible = sum(hit.sent <= at <= hit.ended + GRACE for hit in unknown)
        assert not_given <= possible, f"nobody was given {not_given} of {first} to {last}"


@pytest.mark.long
@pytest.mark.parametrize("seconds", [pytest.param(60, marks=pytest.mark.rehearsal), pytest.param(10, id="shortened")])
@pytest.mark.parametrize("delay", [pytest.param(0.0, id="near"), pytest.param(0.005, id="far")])
async def test_a_minute_with_killed_databases_and_workers_breaks_no_guarantee(
    plain_environment: dict[str, str], tmp_path: Path, seconds: int, delay: float
) -> None:
    """With the database `delay` seconds away, transactions of a lane overlap."""
    port = free_port()
    with ExitStack() as stack:
        server = stack.enter_context(private_mariadb(tmp_path, port))
        database = make_database(server)
        environment = {**plain_environment, **database.environment, "SECRET_KEY": SECRET_KEY}
        migrate(environment)
        if delay:
            environment["DB_PORT"] = str(stack.enter_context(delayed(port, delay)))
        clients = Clients()

        def start_service() -> Hypercorn:
            log = tmp_path / f"service-{uuid.uuid4().hex}.log"
            service = stack.enter_context(hypercorn(environment, log))
            wait_until(lambda: is_ready(service), log=log)
            return service

        clients.services = [start_service(), start_service()]
        logs = [service.log for service in clients.services]

        async def pass_until(part: float) -> None:
            """Returns after a part of the time, and a thousand more hits."""
            before, end = len(clients.hits), started + part * seconds
            while time.monotonic() < end or len(clients.hits) < before + 1000:
                await asyncio.to_thread(end_some_sessions)
                await asyncio.sleep(0.1 + 100 * delay)  # a new connection takes some ten round trips

        def end_some_sessions() -> None:
            with suppress(pymysql.err.OperationalError):
                Database(server, database.name, database.environment).kill_connections()

        async def kill_database() -> DatabaseServer:
            await asyncio.to_thread(server.end, signal.SIGKILL)
            return await asyncio.to_thread(stack.enter_context, private_mariadb(tmp_path, port))

        async def kill_worker() -> DatabaseServer:
            victim = clients.services.pop(0)
            victim.workers()[0].send_signal(signal.SIGKILL)
            await asyncio.to_thread(victim.process.wait, 60)
            clients.services.append(await asyncio.to_thread(start_service))
            logs.append(clients.services[-1].log)
            return server

        started = time.monotonic()
        running = asyncio.create_task(clients.run())
        for part, kill in (0.15, kill_database), (0.4, kill_worker), (0.6, kill_database), (0.8, kill_worker):
            await pass_until(part)
            server = await kill()
        await pass_until(1.0)
        clients.open = False
        async with asyncio.timeout(60):
            await running

        assert set(clients.statuses) <= {200, 503, 504, 0}, clients.statuses
        answered = [hit for hit in clients.hits if hit.number is not None]
        assert len({hit.number for hit in answered}) == len(answered)
        assert all(hit.number for hit in clients.hits if hit.key)
        assert_ordered(answered)
        books = Database(server, database.name, database.environment)
        audit(books)
        assert_receipts_say_what_clients_know(books, clients.hits)
        assert not any("Traceback" in log.read_text() for log in logs)
