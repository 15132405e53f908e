"""Applications for Hypercorn that the counter is compared with."""

import os
import random
from collections.abc import AsyncGenerator
from typing import Any, cast

from prometheus_client import Counter, Histogram
from quart import Quart, Response, current_app
from quart.asgi import ASGIHTTPConnection
from quart.sessions import SecureCookieSessionInterface
from sqlalchemy import bindparam, func, update
from sqlalchemy.dialects.mysql import insert

from loadtests.proof import slow_database
from service.counter.tables import counter
from service.platform import gc_tuning, logs
from service.platform.app import App
from service.platform.database import create_engine
from service.platform.settings import load_settings

COUNTERS = 1_000

POOL_SIZE = int(os.environ.get("POOL_SIZE", "2"))
"""Connections of each worker for transactions of one request: two, since all update the same row and more would only
wait for it in the database."""

_ADD_ONE = (
    update(counter)
    .where(counter.c.name == bindparam("counter_name"))
    .values(count=func.last_insert_id(counter.c.count + 1))
)
_CREATE = insert(counter).values(count=0).prefix_with("IGNORE")


def page(number: int) -> Response:
    """Returns the answer of the counter's page."""
    body = f"<h1>Counter: {number}</h1>"
    return Response(body, content_type="text/html; charset=utf-8", headers={"Cache-Control": "no-store"})


async def count_alone(name: str) -> int:
    """Counts in a transaction of its own, the usual way; returns the number."""
    async with current_app.extensions["alone"].begin() as connection:
        result = await connection.execute(_ADD_ONE, {"counter_name": name})
        if result.rowcount == 1:
            return int(result.lastrowid)
        await connection.execute(_CREATE, {"name": name})
    return await count_alone(name)


def any_counter() -> str:
    return f"counter-{random.randrange(COUNTERS)}"  # noqa: S311  # nothing secret


def make() -> App:
    """Returns the service with more routes: without a database, one transaction a request, many counters."""
    settings = load_settings()
    app = slow_database.make()

    @app.while_serving
    async def engine_for_one_transaction_a_request() -> AsyncGenerator[None]:
        # Without the platform's checks of a connection, as in loadtests/proof.
        app.extensions["alone"] = create_engine(settings.database, pool_size=POOL_SIZE, check=False)
        yield
        await app.extensions["alone"].dispose()

    @app.get("/without-database")
    async def without_database() -> Response:
        return page(1)

    @app.get("/alone")
    async def alone() -> Response:
        return page(await count_alone("page"))

    @app.get("/many")
    async def many() -> Response:
        return page((await current_app.extensions["lanes"].hit(any_counter(), create=True)).last)

    @app.get("/many-alone")
    async def many_alone() -> Response:
        return page(await count_alone(any_counter()))

    return app


def quarts_connection() -> App:
    """Returns the service with Quart's own class for a request."""
    app: Any = make()
    app.asgi_http_class = ASGIHTTPConnection
    return cast(App, app)


def quarts_sessions() -> App:
    """Returns the service with Quart's own sessions."""
    app: Any = make()
    app.session_interface = SecureCookieSessionInterface()
    return cast(App, app)


def without_gc_tuning() -> App:
    """Returns the service with Python's collector as it is."""
    gc_tuning.register = lambda app: None  # noqa: ARG005
    return make()


def without_metrics() -> App:
    """Returns the service without its metrics, those of the counter included."""
    os.environ["METRICS"] = "false"
    for metric, method in (Counter, "inc"), (Histogram, "observe"):
        setattr(metric, method, lambda *_: None)
    return make()


logs.configure("INFO", json=True)  # for the two that have no settings
bare_quart = Quart("bare")


@bare_quart.get("/")
async def hello() -> str:
    return "<h1>Counter: 1</h1>"


async def bare_asgi(scope: Any, receive: Any, send: Any) -> None:
    """Answers with Hypercorn alone."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"19")]})
    await send({"type": "http.response.body", "body": b"<h1>Counter: 1</h1>"})
