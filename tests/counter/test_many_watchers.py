"""Thousands of watchers: what they cost a worker, and a deploy in which half of them must come back.

The figures are printed: ./run rehearse tests/counter/test_many_watchers.py
"""

import asyncio
import re
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from harness.databases import Database
from harness.nginx import nginx
from harness.processes import Hypercorn
from tests.conftest import Start

pytestmark = [pytest.mark.any_database, pytest.mark.rehearsal]

WATCHERS = 2_000
PATH = "/counters/page/events"


class Watcher:
    """What EventSource does: it shows the newest value, and comes back after the wait that it was told."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.value = -1
        self.came: list[float] = []
        self.statuses: Counter[str] = Counter()
        self.wait = 3.0

    async def run(self) -> None:
        while True:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                writer.write(f"GET {PATH} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n".encode())
                self.statuses[(await reader.readline()).decode()[9:12]] += 1
                self.came.append(time.monotonic())
                while (line := (await reader.readline()).decode()) not in {"", "0\r\n"}:  # the last chunk
                    if found := re.match(r"(id|retry): (\d+)", line):
                        if found[1] == "id":
                            self.value = int(found[2])
                        else:
                            self.wait = int(found[2]) / 1000
            except ConnectionError:
                pass
            finally:
                writer.close()
            await asyncio.sleep(self.wait)


@asynccontextmanager
async def watching(port: int) -> AsyncIterator[list[Watcher]]:
    """Runs the watchers; all have the present value when the block begins."""
    watchers = [Watcher(port) for _ in range(WATCHERS)]
    tasks = []
    for number, watcher in enumerate(watchers):
        tasks.append(asyncio.create_task(watcher.run()))
        if number % 50 == 49:
            await until(lambda: all(one.value >= 0 for one in watchers[: len(tasks)]))
    try:
        yield watchers
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def until(condition: object) -> None:
    assert callable(condition)
    async with asyncio.timeout(90):
        while not condition():
            await asyncio.sleep(0.01)


async def hit(client: httpx.AsyncClient) -> int:
    return int((await client.post("/counters/page/hits")).raise_for_status().json()["number"])


async def latencies(client: httpx.AsyncClient, count: int) -> list[float]:
    """Returns the milliseconds that hits took, one after the other, sorted."""
    found = []
    for _ in range(count):
        begun = time.monotonic()
        await hit(client)
        found.append(1000 * (time.monotonic() - begun))
    return sorted(found)


async def test_a_worker_holds_two_thousand_watchers_and_counts_meanwhile(database: Database, start: Start) -> None:
    service = start(API_TOKENS_REQUIRED="false")
    (worker,) = service.workers()
    async with httpx.AsyncClient(base_url=service.url, timeout=30) as client:
        await hit(client)
        alone = await latencies(client, 500)
        before = worker.memory_info().rss
        async with watching(service.port) as watchers:
            each = (worker.memory_info().rss - before) / WATCHERS
            spent = worker.cpu_times()
            watched = await latencies(client, 500)
            newest = await hit(client)
            begun = time.monotonic()
            await until(lambda: all(watcher.value == newest for watcher in watchers))
            shown = time.monotonic() - begun
            now = worker.cpu_times()
        assert {status for watcher in watchers for status in watcher.statuses} == {"200"}
    print(
        f"\n{WATCHERS} watchers of one worker: {each / 1024:.0f} KiB each; a hit is shown to all within {shown:.2f} s; "
        f"hits take {alone[250]:.1f} ms (p50) and {alone[494]:.1f} ms (p99) without them, {watched[250]:.1f} ms and "
        f"{watched[494]:.1f} ms with them; {now.user + now.system - spent.user - spent.system:.2f} s of processor time"
    )


async def test_watchers_of_a_replica_that_leaves_come_back_spread_out_and_none_is_refused(
    database: Database, start: Start, tmp_path: Path
) -> None:
    replicas: list[Hypercorn] = [start(API_TOKENS_REQUIRED="false", SHUTDOWN_DELAY=5) for _ in range(2)]
    with nginx(tmp_path, *(f"127.0.0.1:{replica.port}" for replica in replicas)) as proxy:
        async with (
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{proxy.port}", timeout=30) as client,
            watching(proxy.port) as watchers,
        ):
            begun = time.monotonic()
            replicas[0].process.send_signal(signal.SIGTERM)
            await until(lambda: replicas[0].process.poll() is not None)
            newest = await hit(client)
            await until(lambda: all(watcher.value == newest for watcher in watchers))
            again = Counter(int(came - begun) for watcher in watchers for came in watcher.came if came > begun)
            assert {status for watcher in watchers for status in watcher.statuses} == {"200"}
            assert max(len(watcher.came) for watcher in watchers) == 2, "some were sent to the one that leaves"
    print(f"\nof {WATCHERS} watchers {sum(again.values())} came back, by second: {sorted(again.items())}")
