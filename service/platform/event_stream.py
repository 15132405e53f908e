"""Streams of server-sent events, which browsers read by EventSource.

A quiet stream sends a heartbeat, which finds clients that have gone and keeps proxies from giving it up. A stream whose
client takes nothing for SEND_TIMEOUT ends. When the worker begins to leave, its streams end at once, each with another
time to wait before its client connects again: thousands come back spread out, and to another worker.
"""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

from quart import Response, current_app, request

from service.platform.app import App
from service.platform.metrics import gauge

RETRY = 1_000, 3_000
"""Milliseconds between which a client's wait lies before it connects again."""

RETRY_AFTER_LEAVING = 1_000, 10_000
"""The same for the clients of a worker that leaves, which all come back."""

SEND_TIMEOUT = 30.0
"""Seconds in which a client must take what is sent, as nginx's send_timeout."""

BATCH, PAUSE = 20, 0.002
"""Streams that go on before other requests have their turn, some 2 ms of work, and for how many seconds."""

_T = TypeVar("_T")

_OPEN = gauge("event_streams_open", "Streams of events that clients read.")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Event:
    """An event: `data` is one line. A client that comes back sends the last `id` that it saw as Last-Event-ID."""

    data: str
    id: str = ""
    name: str = ""

    def encode(self) -> bytes:
        """Returns it as it is sent."""
        fields = ("event", self.name), ("id", self.id), ("data", self.data)
        return "".join(f"{field}: {value}\n" for field, value in fields if value).encode() + b"\n"


NextEvent = Callable[[], Awaitable[Event | None]]
"""Waits for the next event; None ends the stream. It is cancelled at each heartbeat, and must lose nothing by it."""


class EventStream(Response):
    """The response, with a bound on the sending of each part (see http_connection.py) and none on all of them.

    Its connection is closed at its end: by one that a proxy kept, clients would come back to the worker that leaves.
    """

    send_timeout = SEND_TIMEOUT

    def __init__(self, parts: AsyncGenerator[bytes]) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        if request.http_version in {"1.0", "1.1"}:  # HTTP/2 has no such header
            headers["Connection"] = "close"
        super().__init__(parts, headers=headers, content_type="text/event-stream")
        self.timeout = None


@dataclass
class _Streams:
    """Those of this worker that wait for their next event, each by the time-out that ends the wait."""

    leaving: asyncio.Event
    waiting: set[asyncio.Timeout]

    async def end(self) -> None:
        """Ends all when the worker begins to leave."""
        await self.leaving.wait()
        async for wait in in_turn(list(self.waiting)):
            if wait in self.waiting and not wait.expired():
                wait.reschedule(0)


def register(app: App) -> None:
    """Has the streams end when the worker begins to leave."""

    @app.while_serving
    async def end_streams() -> AsyncGenerator[None]:
        streams = app.extensions["event_streams"] = _Streams(app.extensions["leaving"], set())
        ending = asyncio.create_task(streams.end())
        yield
        ending.cancel()
        (error,) = await asyncio.gather(ending, return_exceptions=True)
        if isinstance(error, Exception):
            log.error("streams were not ended when the worker began to leave", exc_info=error)


def event_stream(source: AbstractContextManager[NextEvent]) -> Response:
    """Returns the response to a GET: the events of `source`, entered when the stream begins and left at its end.

    It needs no connection to the database while it waits: hold none in `source`.
    """
    if request.method == "HEAD":
        return EventStream(_nothing())
    app: App = current_app  # type: ignore[assignment]
    return EventStream(_parts(source, app.extensions["event_streams"], app.settings.event_heartbeat))


async def in_turn(waiting: Iterable[_T]) -> AsyncGenerator[_T]:
    """Yields them with pauses in between: what wakes thousands of streams must not keep requests waiting."""
    for number, one in enumerate(waiting, 1):
        yield one
        if number % BATCH == 0:
            await asyncio.sleep(PAUSE)


async def _nothing() -> AsyncGenerator[bytes]:
    return
    yield b""


async def _parts(
    source: AbstractContextManager[NextEvent], streams: _Streams, heartbeat: float
) -> AsyncGenerator[bytes]:
    with _OPEN.track_inprogress(), source as next_event:
        yield _retry(RETRY)
        while not streams.leaving.is_set():
            wait = asyncio.timeout(heartbeat)
            try:
                async with wait:
                    streams.waiting.add(wait)
                    try:
                        event = await next_event()
                    finally:
                        streams.waiting.discard(wait)
            except TimeoutError:
                if not wait.expired():
                    raise
                yield b":\n\n"
                continue
            if event is None:
                return
            yield event.encode()
    yield _retry(RETRY_AFTER_LEAVING)


def _retry(milliseconds: tuple[int, int]) -> bytes:
    return f"retry: {random.randint(*milliseconds)}\n\n".encode()  # noqa: S311  # not a secret
