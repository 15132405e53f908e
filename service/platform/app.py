"""The Quart application class: what every request of any blueprint gets from the platform."""

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from functools import partial
from inspect import CO_COROUTINE
from typing import Any, NoReturn
from urllib.parse import urlsplit, urlunsplit

from quart import Quart, Request, Response, ResponseReturnValue
from quart.wrappers.base import BaseRequestWebsocket
from sqlalchemy import Executable
from werkzeug.exceptions import BadHost, GatewayTimeout
from werkzeug.routing import MapAdapter, RequestRedirect

from service.platform.cookies import CookieSessions
from service.platform.http_connection import HttpConnection
from service.platform.settings import Settings


class RangeResponse(Response):
    """A response that sends whole what Quart cannot send a part of, as RFC 9110 (14.2) allows.

    Quart 0.23 fails with `bytes=-5`, the last five, and refuses several ranges and those that are malformed.
    """

    def _is_range_request_processable(self, request: Request) -> bool:
        ranges = request.range.ranges if request.range else []
        return len(ranges) == 1 and ranges[0][0] >= 0 and super()._is_range_request_processable(request)


class App(Quart):
    """A Quart application with settings and a time-out for each request.

    Quart's own RESPONSE_TIMEOUT bounds the sending of a response only, and cancelling from outside, in ASGI, leaves
    Quart's inner tasks running: so the time-out is here, around the dispatch.
    """

    asgi_http_class = HttpConnection
    response_class = RangeResponse
    session_interface = CookieSessions()

    def __init__(self, settings: Settings) -> None:
        super().__init__("service", static_folder=None)
        self.settings = settings
        self.connections = 0
        """How many connections to the database this worker may have; each part adds its own."""
        self.tries: list[Executable] = []
        """What a worker that is ready can do: statements such as requests execute, tried and rolled back (health.py).
        They should match no row, since a try that is cut off may keep its locks for DB_IDLE_TIMEOUT."""
        self.scopes_of_one: set[str] = set()
        """Scopes of tokens that are for the one name after a `:`, and for none without it (token_commands.py)."""
        self.was_ready = asyncio.Event()
        """Set when the worker is ready for the first time; until then only its own host is let in (lifecycle.py)."""
        self.debug = settings.environment == "development"
        self.config.update(
            SECRET_KEY=settings.secret_key,
            SECRET_KEY_FALLBACKS=list(settings.secret_key_fallbacks),
            MAX_CONTENT_LENGTH=settings.max_body_size,
            BODY_TIMEOUT=settings.body_timeout,
            BACKGROUND_TASK_SHUTDOWN_TIMEOUT=5,
        )

    def ensure_async(self, func: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
        """Returns an `async def` as it is, and of any other function one that runs it in a thread.

        Quart asks this several times for each request, and unwraps the function each time before it looks.
        """
        code = getattr(func, "__code__", None)
        if code is not None and code.co_flags & CO_COROUTINE:
            return func
        return super().ensure_async(func)

    def add_background_task(self, func: Callable[..., Any], *arguments: Any, **named: Any) -> None:
        """Runs the function in a context of its own, in which Quart 0.22 leaves the request: the log would name it."""
        contextvars.Context().run(super().add_background_task, func, *arguments, **named)

    def create_url_adapter(self, request: BaseRequestWebsocket | None) -> MapAdapter | None:
        """Binds the routes to the request. A Host that cannot be one matches none: 400, on which Quart 0.22 fails."""
        try:
            return super().create_url_adapter(request)
        except BadHost as error:
            assert request is not None
            request.headers["Host"] = ""
            vars(request).pop("host", None)  # a cached property
            adapter = super().create_url_adapter(request)
            adapter.match = partial(_raise, error)  # type: ignore[union-attr, method-assign]
            return adapter

    def raise_routing_exception(self, request: BaseRequestWebsocket) -> NoReturn:
        """Raises what the routing found. A redirect leads to a path, not to whatever Host the client has sent."""
        if isinstance(error := request.routing_exception, RequestRedirect):
            _, _, path, query, _ = urlsplit(error.new_url)
            # One slash: a second would begin the name of another host.
            error.new_url = urlunsplit(("", "", f"/{path.lstrip('/')}", query, ""))
        super().raise_routing_exception(request)

    async def dispatch_request(self, *context: Any, **named: Any) -> ResponseReturnValue:
        """Returns the view's answer. Raises GatewayTimeout (504) where it took longer than REQUEST_TIMEOUT.

        The context is of another class in Quart 0.22 than in 0.23, and is handed on as it is.
        """
        try:
            async with asyncio.timeout(self.settings.request_timeout) as deadline:
                return await super().dispatch_request(*context, **named)
        except TimeoutError:
            if not deadline.expired():
                raise
            raise GatewayTimeout(
                "The request took too long and was given up. Whether it took effect is not known."
            ) from None


def _raise(error: Exception, *_: object, **__: object) -> NoReturn:
    raise error
