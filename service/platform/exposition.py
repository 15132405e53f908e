"""`/metrics`: what all workers of a replica have measured, together. nginx does not show it outside.

Here are also the metrics of every application: its requests, the event loop and the garbage collector.
"""

import asyncio
import gc
import logging
import platform
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    Counter,
    GCCollector,
    Histogram,
    Metric,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.registry import Collector
from quart import Request, Response, request
from werkzeug.exceptions import NotFound

from service.platform.app import App
from service.platform.metrics import OTHER, counter, gauge, histogram, maxima, own, registry
from service.platform.problems import problem_details
from service.platform.worker_metrics import WorkerMetrics

INTERVAL = 1.0
"""Seconds between two writes of a worker's metrics: what a worker that is killed has counted since is lost."""

LAG_INTERVAL = 0.1
"""Seconds that the event loop is told to wait, to see how late it is."""

TRIES = 10
"""How often a worker tries to read the files while another one reads them, LAG_INTERVAL apart; then it says so."""

UNMATCHED = "unmatched"
"""The route of a request that has none."""

CLIENT_LEFT = 499
"""The status of a request whose client left before it was answered; nginx calls it so."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_REQUESTS = counter("http_requests_total", "Requests that have ended.", ("method", "route", "status"))
_DURATION = histogram("http_request_duration_seconds", "Time until the answer begins to be sent.", ("method", "route"))
_IN_PROGRESS = gauge("http_requests_in_progress", "Requests that wait for their answer.")
_LAG = histogram("event_loop_lag_seconds", f"How late a timer of {LAG_INTERVAL:g} s is.")
_COLLECTIONS = histogram("python_gc_duration_seconds", "Time that a garbage collection took.", ("generation",))
_COLLECTION = [_COLLECTIONS.labels(generation) for generation in range(len(gc.get_threshold()))]
_BUILD = gauge("service_build_info", "1, with what runs in its labels.", ("version", "python"), joined="max")
GCCollector(registry)
ProcessCollector(registry=registry)

log = logging.getLogger(__name__)


def register(app: App) -> None:
    """Measures while the application serves, and adds `/metrics`, unless METRICS is off."""
    if not app.settings.metrics:
        return
    _BUILD.clear()
    _BUILD.labels(app.settings.version or "unknown", platform.python_version()).set(1)
    app.handle_request = _measured(app.handle_request)  # type: ignore[assignment, method-assign]
    exposition = _Exposition(app)
    app.while_serving(exposition.serve)

    @app.get("/metrics")
    async def metrics() -> Response:
        if "X-Forwarded-For" in request.headers:
            raise NotFound  # it came through a proxy, from outside
        for measure in app.extensions.get("before_scrape", []):
            await measure()
        return await exposition.answer()


def _measured(handle: Callable[[Request], Awaitable[Any]]) -> Callable[[Request], Awaitable[Any]]:
    """Returns a function that counts and times what `handle` answers."""
    known: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
    in_progress = 0
    _IN_PROGRESS.set_function(lambda: in_progress)

    async def handle_request(request: Request) -> Any:
        nonlocal in_progress
        begun, status = time.monotonic(), CLIENT_LEFT
        in_progress += 1
        try:
            response = await handle(request)
            status = response.status_code
        except Exception:
            status = 500
            raise
        finally:
            in_progress -= 1
            method = request.method if request.method in _METHODS else OTHER
            route = request.url_rule.rule if request.url_rule else UNMATCHED
            if (found := known.get((method, route, status))) is None:
                found = _REQUESTS.labels(method, route, status), _DURATION.labels(method, route)
                known[method, route, status] = found
            requests, duration = found
            requests.inc()
            duration.observe(time.monotonic() - begun)
        return response

    return handle_request


class _Exposition(Collector):
    """Writes this worker's metrics to its file while it serves, and answers with those of all workers."""

    def __init__(self, app: App) -> None:
        self._directory = app.settings.metrics_directory
        self._workers = WorkerMetrics(self._directory)
        self._reason = ""
        self._metrics: list[Metric] = []
        self._collections: deque[tuple[int, float]] = deque()
        self._collection_begun = 0.0

    async def serve(self) -> AsyncGenerator[None]:
        """Runs while the application serves."""
        with self._noting_failures():
            self._workers.start()
        gc.callbacks.append(self._note_collection)
        writing = asyncio.create_task(self._write_each_second(), name="metrics")
        yield
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        gc.callbacks.remove(self._note_collection)
        self._write()

    async def answer(self) -> Response:
        """Returns the answer with the metrics of all workers, 503 where their files cannot be written or read.

        What was written last would be answered too, but figures that stand still look like a service without requests.
        """
        self._write()
        if not self._reason:
            with self._noting_failures():
                await self._read()
        if self._reason:
            return problem_details(503, self._reason)
        text = generate_latest(self)
        return Response(text, content_type=CONTENT_TYPE_LATEST, headers={"Cache-Control": "no-store"})

    def collect(self) -> list[Metric]:
        """Returns what was read last; it is called by prometheus_client."""
        return self._metrics

    async def _write_each_second(self) -> None:
        next_write = time.monotonic()
        while True:
            begun = time.monotonic()
            await asyncio.sleep(LAG_INTERVAL)
            _LAG.observe(max(0.0, time.monotonic() - begun - LAG_INTERVAL))
            if time.monotonic() >= next_write:
                next_write = time.monotonic() + INTERVAL
                self._write()

    def _write(self) -> None:
        while self._collections:
            generation, seconds = self._collections.popleft()
            _COLLECTION[generation].observe(seconds)
        with self._noting_failures():
            self._workers.write(registry.collect())

    async def _read(self) -> None:
        for left in reversed(range(TRIES)):
            try:
                self._metrics = self._workers.read(maxima=maxima, own=own)
            except BlockingIOError:
                if not left:
                    raise
            else:
                return
            await asyncio.sleep(LAG_INTERVAL)

    @contextmanager
    def _noting_failures(self) -> Iterator[None]:
        """Notes why the block failed, and logs it the first time: the service does not depend on its metrics."""
        reason = ""
        try:
            yield
        except OSError as error:
            reason = f"The metrics of the workers cannot be joined: {self._directory}: {error.strerror}."
        except Exception as error:
            reason = f"The metrics of the workers cannot be joined: {self._directory}: {type(error).__name__}: {error}."
            if reason != self._reason:
                log.exception("an error with the metrics")
        if reason != self._reason:
            log.warning("%s", reason or "The metrics of the workers can be joined again.")
        self._reason = reason

    def _note_collection(self, phase: str, about: dict[str, int]) -> None:
        """Notes how long a collection took. Not in the metric at once: this may run while its lock is held."""
        if phase == "start":
            self._collection_begun = time.monotonic()
        else:
            self._collections.append((about["generation"], time.monotonic() - self._collection_begun))
