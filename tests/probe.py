"""A small application of the tests on the platform, beside the real one: what a platform must stand up to.

`tests.probe:app` is loaded by Hypercorn like the service, and has what the counter does not: slow and failing views.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from quart import Blueprint, Response, current_app, request
from sqlalchemy import text

from service import create_app, lifecycle
from service.database import transaction
from service.settings import load_settings

log = logging.getLogger(__name__)
blueprint = Blueprint("probe", __name__, url_prefix="/probe")


@blueprint.get("/sleep")
async def sleep() -> str:
    await asyncio.sleep(request.args.get("seconds", 0.0, float))
    return "slept"


@blueprint.get("/query")
async def query() -> str:
    """Runs the SQL of `sql` in a transaction and answers its first value, "" if it returns no rows."""
    async with transaction() as connection:
        result = await connection.execute(text(request.args["sql"]))
        return str(result.scalar()) if result.returns_rows else ""


@blueprint.get("/client")
async def client() -> str:
    return f"{request.scheme} {request.remote_addr}"


@blueprint.post("/body")
async def body() -> str:
    return str(len(await request.get_data()))


@blueprint.get("/error")
async def error() -> str:
    raise RuntimeError("the secret of the traceback")


@blueprint.get("/ready-after-sigterm")
async def ready_after_sigterm() -> Response:
    """Waits until this worker drains, and answers what `/readyz` says then."""
    log.info("waiting for the drain")
    while not lifecycle.draining():
        await asyncio.sleep(0.005)
    view: Callable[[], Awaitable[Response]] = current_app.view_functions["readyz"]  # type: ignore[assignment]
    return await view()


app = create_app(load_settings())
app.register_blueprint(blueprint)
