"""Streams of events: heartbeats, clients that never read, and a worker that leaves."""

import asyncio
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from harness.databases import Database, DatabaseServer, new_database
from harness.processes import Hypercorn, hypercorn, wait_until
from service.platform.event_stream import _Streams
from tests.conftest import SECRET_KEY, Start

pytestmark = pytest.mark.any_database

EVENTS = {"Accept": "text/event-stream"}


@pytest.fixture(scope="module")
def service(
    server: DatabaseServer, plain_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Hypercorn]:
    """The probe application, with one worker."""
    with new_database(server) as database:
        own = {"SECRET_KEY": SECRET_KEY, "EVENT_HEARTBEAT": "0.2"}
        log = tmp_path_factory.mktemp("events") / "log"
        environment = {**plain_environment, **database.environment, **own}
        with hypercorn(environment, log, app="tests.platform.probe:app", workers=1) as running:
            yield running


@contextmanager
def stream(service: Hypercorn, path: str) -> Iterator[tuple[httpx.Response, Iterator[str]]]:
    """Opens a stream, and hands out the response and its messages, each without the empty line at its end."""
    with httpx.stream("GET", f"{service.url}/probe/events/{path}", headers=EVENTS, timeout=30) as answered:
        yield answered, messages(answered)


def messages(answered: httpx.Response) -> Iterator[str]:
    lines: list[str] = []
    for line in answered.iter_lines():
        if line:
            lines.append(line)
        else:
            yield "\n".join(lines)
            lines = []


def milliseconds(message: str) -> int:
    found = re.fullmatch(r"retry: (\d+)", message)
    assert found, message
    return int(found[1])


def test_a_stream_has_its_events_and_a_comment_where_it_is_quiet(service: Hypercorn) -> None:
    with stream(service, "quiet?events=2") as (answered, parts):
        headers = answered.headers
        assert (answered.status_code, headers["content-type"]) == (200, "text/event-stream")
        assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-store", "no")
        assert headers["connection"] == "close"
        assert milliseconds(next(parts)) > 0
        assert [next(parts) for _ in range(2)] == [f"event: probe\nid: {number}\ndata: x" for number in range(2)]
        assert [next(parts) for _ in range(3)] == [":"] * 3
        assert "\nevent_streams_open 1.0\n" in httpx.get(f"{service.url}/metrics").text
    wait_until(lambda: service.logged("quiet has ended"), limit=5)
    assert "\nevent_streams_open 0.0\n" in httpx.get(f"{service.url}/metrics").text


async def test_a_wait_that_a_heartbeat_ends_already_does_not_keep_the_others_from_their_end() -> None:
    streams = _Streams(asyncio.Event(), set())
    streams.leaving.set()

    async def wait_for(seconds: float | None, *, ending: bool) -> None:
        async with asyncio.timeout(seconds) as wait:
            streams.waiting.add(wait)
            try:
                await asyncio.Event().wait()
            finally:
                if ending:
                    await streams.end()

    other = asyncio.create_task(wait_for(None, ending=False))
    with pytest.raises(TimeoutError):
        await wait_for(0, ending=True)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(other), 30)
    assert other.done()


def test_head_has_the_headers_and_begins_no_stream(service: Hypercorn) -> None:
    answered = httpx.head(f"{service.url}/probe/events/head", headers=EVENTS)
    assert (answered.status_code, answered.headers["content-type"]) == (200, "text/event-stream")
    assert not service.logged("head has ended")


def test_a_client_that_never_reads_is_left_after_a_time_and_its_connection_closed(service: Hypercorn) -> None:
    (worker,) = service.workers()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.connect(("127.0.0.1", service.port))
        query = b"events=9999&bytes=100000&send_timeout=0.5"
        client.sendall(b"GET /probe/events/unread?%b HTTP/1.1\r\nHost: x\r\n\r\n" % query)
        wait_until(lambda: service.logged("unread has ended"), limit=10)
        wait_until(lambda: not [c for c in worker.net_connections("tcp") if c.raddr], limit=20)
        assert httpx.get(f"{service.url}/livez").status_code == 200


def test_the_streams_of_a_worker_that_leaves_end_and_their_clients_come_back_spread_out(
    database: Database, start: Start
) -> None:
    service = start(app="tests.platform.probe:app")
    with ExitStack() as stack:
        client = stack.enter_context(httpx.Client(base_url=service.url, limits=httpx.Limits(), timeout=30))
        opened = [
            messages(stack.enter_context(client.stream("GET", "/probe/events/leaving", headers=EVENTS)))
            for _ in range(150)
        ]
        for parts in opened:
            milliseconds(next(parts))
            next(parts)
        service.process.send_signal(signal.SIGTERM)
        waits = [milliseconds([part for part in parts if part != ":"][-1]) for parts in opened]
    assert max(waits) - min(waits) > 5_000
    assert len(set(waits)) > 100
    assert service.process.wait(10) == 0
    assert not service.logged("Traceback")
