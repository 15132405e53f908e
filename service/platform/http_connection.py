"""The ASGI connection of an HTTP request, without the tasks that most requests do not need.

Quart (0.22 and 0.23, `asgi.py`) creates one task for the handler and one that receives, and sends an empty event after
each body. Here the handler runs in the server's task; the receiving task is created only if there is a body, or no
answer within DISCONNECT_WATCH_DELAY; and a body in memory is sent as the last event.
"""

import asyncio
import contextlib
import math
import time
from functools import partial
from inspect import signature
from typing import Any, cast

from hypercorn.typing import (
    ASGIReceiveCallable,
    ASGIReceiveEvent,
    ASGISendCallable,
    ASGISendEvent,
    HTTPResponseBodyEvent,
    HTTPResponseStartEvent,
)
from quart import Request, Response
from quart.asgi import ASGIHTTPConnection
from quart.debug import traceback_response
from quart.typing import ResponseTypes
from quart.utils import encode_headers
from quart.wrappers.response import DataBody
from werkzeug.exceptions import RequestEntityTooLarge

DISCONNECT_WATCH_DELAY = 0.1
"""Seconds after which the client of a request without a body is watched for its disconnect.

Almost all requests have ended by then, and need no receiving task.
"""


LINGER = 1.0
"""Seconds for which the rest of a body is read after its response, and discarded.

Were the connection closed at once it would be reset, and the client could lose the response (RFC 9112, 9.6).
"""

HANDLER_IS_HANDED_IN = "request_task" in signature(ASGIHTTPConnection.handle_messages).parameters
"""From Quart 0.23 on, what receives cancels the handler by itself. To be dropped with Python 3.11 and Quart 0.22."""


class HttpConnection(ASGIHTTPConnection):
    """One request. As with Quart's own class, the handler is cancelled if the client leaves before it is answered."""

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        request = self._create_request_from_scope(send)
        request.begun = time.monotonic()  # type: ignore[attr-defined]  # for the log
        client = self._client = _Client(self, request, receive)
        try:
            await self.handle_request(request, send)
        except asyncio.CancelledError:
            if not client.has_left():
                raise
        finally:
            client.close()

    async def handle_request(self, request: Request, send: ASGISendCallable) -> None:
        try:
            response = await self.app.handle_request(request)
        except Exception as error:
            if not self.app.debug and not self.app.testing:
                raise
            response = await traceback_response(error)
        timeout: float | None = self.app.config["RESPONSE_TIMEOUT"]
        if isinstance(response, Response) and response.timeout is not Ellipsis:
            timeout = response.timeout
        try:
            async with asyncio.timeout(timeout):
                await self._send_response(send, response)
        except TimeoutError:
            pass

    async def _send_response(self, send: ASGISendCallable, response: ResponseTypes) -> None:
        body = response.response
        if type(body) is not DataBody:
            limit = getattr(response, "send_timeout", None)
            await super()._send_response(send if limit is None else partial(_send_within, limit, send), response)
            return
        start = {
            "type": "http.response.start",
            "status": response.status_code,
            "headers": encode_headers(response.headers),
        }
        await send(cast("HTTPResponseStartEvent", start))
        data = body.data[body.begin : body.end]
        if self._client.is_sending:
            more = {"type": "http.response.body", "body": data, "more_body": True}
            await send(cast("HTTPResponseBodyEvent", more))
            await self._client.read_rest()
            data = b""
        end = {"type": "http.response.body", "body": data, "more_body": False}
        await send(cast("HTTPResponseBodyEvent", end))


class _Client:
    """Receives what the client sends, and cancels the handler (the current task) when the client disconnects."""

    def __init__(self, connection: HttpConnection, request: Request, receive: ASGIReceiveCallable) -> None:
        self._handler = cast("asyncio.Task[Any]", asyncio.current_task())
        self._receiving: asyncio.Task[None] | None = None
        self._later: asyncio.TimerHandle | None = None
        self._closed = False
        self._handle_messages: Any = connection.handle_messages
        self._request = request
        self._body_ended = asyncio.Event()
        self._is_answered = False
        if has_no_body(connection.scope):
            request.body.set_complete()
            self._body_ended.set()
            watch = partial(self._receive, partial(_receive_end, receive))
            self._later = self._handler.get_loop().call_later(DISCONNECT_WATCH_DELAY, watch)
        else:
            limit: int | None = connection.app.config["MAX_CONTENT_LENGTH"]
            self._room = math.inf if limit is None else limit
            """Bytes that the body may still have; below 0 it is too large."""
            self._receive(partial(self._receive_body, receive))

    @property
    def is_sending(self) -> bool:
        """Whether the end of the request's body has not come yet."""
        return not self._body_ended.is_set()

    async def read_rest(self) -> None:
        """Discards the rest of the body, for LINGER seconds at the most."""
        self._is_answered = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                await self._body_ended.wait()

    def has_left(self) -> bool:
        """Whether the disconnect is why the handler was cancelled. Raises the receiving task's error."""
        if self._receiving is None or not self._receiving.done() or self._handler.uncancel() > 0:
            return False
        self._receiving.result()
        return True

    def close(self) -> None:
        self._closed = True
        if self._later is not None:
            self._later.cancel()
        if self._receiving is not None:
            self._receiving.cancel()

    async def _receive_body(self, receive: ASGIReceiveCallable) -> ASGIReceiveEvent:
        """Returns the next event. The event that exceeds the limit ends the body, and the rest is discarded.

        Quart 0.23 keeps all in memory, and looks at its size when it is complete, and not at all by `async for`.
        """
        while True:
            event = await receive()
            if event["type"] != "http.request":
                self._body_ended.set()
                return event
            if not event.get("more_body", False):
                self._body_ended.set()
            if self._room < 0:
                continue
            self._room -= len(event.get("body", b""))
            if self._room < 0:
                self._request.body._must_raise = RequestEntityTooLarge()
                event["body"], event["more_body"] = b"", False
            elif self._is_answered:
                event["body"] = b""
            return event

    def _receive(self, receive: ASGIReceiveCallable) -> None:
        handler = (self._handler,) if HANDLER_IS_HANDED_IN else ()
        receiving = self._handle_messages(self._request, receive, *handler)
        self._receiving = self._handler.get_loop().create_task(receiving)
        self._receiving.add_done_callback(self._cancel)

    def _cancel(self, receiving: "asyncio.Task[None]") -> None:
        failed = receiving.cancelled() or receiving.exception() is not None
        if not self._closed and (failed or not HANDLER_IS_HANDED_IN):
            self._handler.cancel()


async def _send_within(limit: float, send: ASGISendCallable, event: ASGISendEvent) -> None:
    """Raises TimeoutError, at which the response ends, where the client does not take what is sent."""
    async with asyncio.timeout(limit):
        await send(event)


async def _receive_end(receive: ASGIReceiveCallable) -> ASGIReceiveEvent:
    """Returns the disconnect event; the event of the empty body, which comes first, is skipped."""
    while (event := await receive())["type"] == "http.request":
        pass
    return event


def has_no_body(scope: Any) -> bool:
    """Whether this is known before anything is received: in HTTP/1 a body is announced (RFC 9112, 6.3).

    Browsers announce an empty one with a POST: `Content-Length: 0`. Quart's test client does not announce its bodies;
    it is not a server, of which the scope would tell.
    """
    return (
        "server" in scope
        and scope["http_version"] in ("1.0", "1.1")
        and not any(
            name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0"))
            for name, value in scope["headers"]
        )
    )
