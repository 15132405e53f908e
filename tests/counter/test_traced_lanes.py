"""A hit's trace shows its wait in the queue and its batch; the batch's, with which hits it was counted."""

import asyncio

import httpx
import pytest

from harness.databases import Database
from harness.processes import stop, wait_until
from harness.receiver import receiver
from harness.traces import spans_in
from tests.conftest import Start
from tests.counter.test_busy import blocked, held

pytestmark = pytest.mark.any_database


async def test_the_trace_shows_a_hits_wait_and_its_batch(database: Database, start: Start) -> None:
    with receiver() as received:
        service = start(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{received.port}", LANE_TRANSACTIONS=1)
        async with httpx.AsyncClient(base_url=service.url, timeout=20) as client:
            with held(database):
                first = asyncio.create_task(client.get("/"))
                await asyncio.to_thread(wait_until, lambda: blocked(database))
                others = [asyncio.create_task(client.get("/")) for _ in range(3)]
            answers = await asyncio.gather(first, *others)
            assert {answer.status_code for answer in answers} == {200}
        await asyncio.to_thread(stop, service.process)
    spans = spans_in(received)
    requests = [span for span in spans if span.name == "GET /"]
    waits = {span.span_id: span for span in spans if span.name == "hit.queue"}
    parts = [span for span in spans if span.name == "hit.batch"]
    batches = {span.span_id: span for span in spans if span.name == "batch"}
    assert (len(requests), len(waits), len(parts)) == (4, 4, 4)
    assert sum(batch.attributes["hits"] for batch in batches.values()) == 4
    for part in parts:
        (request,) = (one for one in requests if one.span_id == part.parent_span_id)
        (wait,) = (one for one in waits.values() if one.parent_span_id == request.span_id)
        (batch,) = (batches[link] for link in part.links)
        assert request.trace_id == part.trace_id == wait.trace_id != batch.trace_id
        assert wait.span_id in batch.links
        assert batch.parent_span_id == b""
        assert (batch.attributes["counter"], batch.events[:1]) == ("page", ["first attempt"])
        assert request.begin <= wait.begin <= wait.end <= part.begin <= part.end <= request.end
