"""Lanes whose hits and batches are spans. Imported where tracing is on.

`hit.queue` and `hit.batch`, in a request's trace, are a hit's wait for its transaction and its time in that; the second
is linked to `batch`, a trace of its own, which is linked to the waits of its hits (the first 128 of them).
"""

from typing import Any

from opentelemetry import context
from opentelemetry.trace import Link, Span

from service.counter.batch import Batch, Hit
from service.counter.connections import LaneConnection
from service.counter.lane import Lane
from service.counter.lanes import Lanes
from service.platform.spans import tracer


class TracedLane(Lane):
    """A lane with spans."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._spans: dict[Hit, tuple[Span, context.Context]] = {}
        """The one that a hit is in now, and the context of its request."""
        self._batches: dict[Batch, Span] = {}

    def put(self, hit: Hit) -> None:
        now = context.get_current()
        self._spans[hit] = tracer.start_span("hit.queue", now), now
        hit.answer.add_done_callback(lambda _: self._end(hit))
        super().put(hit)

    def _fill(self, batch: Batch) -> None:
        if batch.is_filled:
            return
        super()._fill(batch)
        if not batch.hits:
            return
        waits = [self._spans[hit] for hit in batch.hits]
        attributes: dict[str, str | int] = {"counter": self.name, "hits": len(batch.hits)}
        links = [Link(span.get_span_context()) for span, _ in waits]
        self._batches[batch] = whole = tracer.start_span("batch", context.Context(), links=links, attributes=attributes)
        link = Link(whole.get_span_context(), {"hits": len(batch.hits)})
        for hit, (wait, of_request) in zip(batch.hits, waits, strict=True):
            wait.end()
            self._spans[hit] = tracer.start_span("hit.batch", of_request, links=[link]), of_request

    async def _process(self, batch: Batch, *, is_beside: bool) -> None:
        try:
            await super()._process(batch, is_beside=is_beside)
        finally:
            if (span := self._batches.pop(batch, None)) is not None:
                span.end()

    async def _first_attempt(self, connection: LaneConnection, batch: Batch) -> bool:
        self._batches[batch].add_event("first attempt")
        return await super()._first_attempt(connection, batch)

    async def _recover(self, connection: LaneConnection, batch: Batch) -> bool:
        self._batches[batch].add_event("recovery")
        return await super()._recover(connection, batch)

    def _end(self, hit: Hit) -> None:
        span, _ = self._spans.pop(hit)
        span.end()


class TracedLanes(Lanes):
    """A worker's lanes, with spans."""

    lane_class = TracedLane
