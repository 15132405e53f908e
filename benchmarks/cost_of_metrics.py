"""What the metrics cost: processor time of each step, which other work on the machine hardly disturbs.

.venv/bin/python -m benchmarks.cost_of_metrics
"""

import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from prometheus_client import generate_latest

from service.counter import metrics as of_the_counter
from service.platform import exposition
from service.platform.metrics import registry
from service.platform.worker_metrics import WorkerMetrics

ROUNDS, TIMES = 7, 20_000


def cost(do: Callable[[], object], times: int = TIMES) -> float:
    """Returns the microseconds that it takes: the least of ROUNDS rounds."""
    rounds = []
    for _ in range(ROUNDS):
        begun = time.process_time()
        for _ in range(times):
            do()
        rounds.append((time.process_time() - begun) / times * 1e6)
    return min(rounds)


async def cost_of_a_request() -> float:
    """Returns the microseconds by which counting and timing a request makes it longer."""
    request: Any = SimpleNamespace(method="GET", url_rule=SimpleNamespace(rule="/"))
    response = SimpleNamespace(status_code=200)

    async def handle(_: Any) -> Any:
        return response

    async def seconds(handle: Callable[[Any], Any]) -> float:
        begun = time.process_time()
        for _ in range(TIMES):
            await handle(request)
        return time.process_time() - begun

    measured = exposition._measured(handle)
    with_metrics = min([await seconds(measured) for _ in range(ROUNDS)])
    return (with_metrics - min([await seconds(handle) for _ in range(ROUNDS)])) / TIMES * 1e6


def count_a_transaction() -> None:
    of_the_counter.HITS.inc(20)
    of_the_counter.BATCH.observe(20)
    of_the_counter.TRANSACTION.observe(0.01)
    of_the_counter.AT_LOCK.observe(0.01)


def main() -> None:
    print(f"{asyncio.run(cost_of_a_request()):8.2f} us each request")
    print(f"{cost(lambda: of_the_counter.WAIT.observe(0.01)):8.2f} us each hit")
    print(f"{cost(count_a_transaction):8.2f} us each transaction")
    for route in range(10):
        for status in range(3):
            exposition._REQUESTS.labels("GET", route, status).inc()
        exposition._DURATION.labels("GET", route).observe(0.01)
    with tempfile.TemporaryDirectory() as folder:
        workers = WorkerMetrics(Path(folder))
        workers.start()
        print(f"{cost(lambda: workers.write(registry.collect()), 20):8.0f} us each second, in each worker")
        print(f"{cost(lambda: workers.read(maxima=(), own=()), 20):8.0f} us each scrape, for each worker")
        print(f"{cost(lambda: generate_latest(registry), 20):8.0f} us each scrape, for its text")


if __name__ == "__main__":
    main()
