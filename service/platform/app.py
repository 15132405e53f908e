"""The Quart application class: what every request of any blueprint gets from the platform."""

import asyncio
from collections.abc import Awaitable, Callable
from inspect import CO_COROUTINE
from typing import Any

from quart import Quart, ResponseReturnValue
from sqlalchemy import Executable
from werkzeug.exceptions import GatewayTimeout

from service.platform.cookies import CookieSessions
from service.platform.http_connection import HttpConnection
from service.platform.settings import Settings


class App(Quart):
    """A Quart application with settings and a time-out for each request.

    Quart's own RESPONSE_TIMEOUT bounds the sending of a response only, and cancelling from outside, in ASGI, leaves
    Quart's inner tasks running: so the time-out is here, around the dispatch.
    """

    asgi_http_class = HttpConnection
    session_interface = CookieSessions()

    def __init__(self, settings: Settings) -> None:
        super().__init__("service", static_folder=None)
        self.settings = settings
        self.connections = 0
        """How many connections to the database this worker may have; each part adds its own."""
        self.tries: list[Executable] = []
        """What a worker that is ready can do: statements such as requests execute, tried and rolled back (health.py).
        They must lock no row that a request may want."""
        self.debug = settings.environment == "development"
        self.config.update(
            SECRET_KEY=settings.secret_key,
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
