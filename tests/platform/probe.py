"""A small application of the tests on the platform, beside the real one: what a platform must stand up to.

Hypercorn loads `tests.platform.probe:app` as it does the service; it has what that has not: slow and failing views.
"""

import asyncio
import logging
import multiprocessing
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import contextmanager

from quart import Blueprint, Response, current_app, request, session, websocket
from sqlalchemy import text

from service import create_app
from service.platform import jobs, lifecycle
from service.platform.database import transaction
from service.platform.event_stream import Event, EventStream, NextEvent, event_stream
from service.platform.problems import Problem
from service.platform.settings import load_settings
from service.platform.tokens import require_token

log = logging.getLogger(__name__)
blueprint = Blueprint("probe", __name__, url_prefix="/probe")


@blueprint.get("/process")
async def process() -> str:
    """Sleeps for so many seconds, and says in which process."""
    await asyncio.sleep(request.args.get("seconds", 0.0, float))
    return str(os.getpid())


@blueprint.get("/lock")
async def lock() -> str:
    """Has the lock of Hypercorn's event for so many seconds, and says in which process."""
    with multiprocessing.current_process()._kwargs["shutdown_event"]._cond:  # type: ignore[attr-defined]
        return await process()


@blueprint.get("/sleep")
async def sleep() -> str:
    """Sleeps for so many seconds; logs when it begins."""
    seconds = request.args.get("seconds", 0.0, float)
    log.info("sleeps for %g seconds", seconds)
    await asyncio.sleep(seconds)
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


@blueprint.route("/wait/<name>", methods=["GET", "POST"])
async def wait(name: str) -> str:
    """Reads the body, if `read` is asked for, and waits until it is cancelled; logs the begin and the end."""
    log.info("%s waits", name)
    try:
        if "read" in request.args:
            await request.get_data()
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        log.info("%s is cancelled", name)
        raise
    return ""


@blueprint.get("/stream/<name>")
async def stream(name: str) -> Response:
    """Sends parts without end, or `parts` of them; logs that it has ended. `timeout` is the response's own."""
    parts = request.args.get("parts", 1_000_000, int)

    async def generate() -> AsyncGenerator[str]:
        try:
            for number in range(parts):
                yield f"part {number}\n"
                await asyncio.sleep(0.02)
        finally:
            log.info("%s has ended", name)

    response = Response(generate(), content_type="text/plain")
    response.timeout = request.args.get("timeout", None, float)
    return response


@blueprint.get("/quiet")
async def quiet() -> Response:
    """Sends a part, nothing for so many seconds, and another part."""
    seconds = request.args.get("seconds", 0.0, float)

    async def generate() -> AsyncGenerator[str]:
        yield "data: begin\n\n"
        await asyncio.sleep(seconds)
        yield "data: end\n\n"

    return Response(generate(), content_type="text/event-stream")


@blueprint.get("/events/<name>")
async def events(name: str) -> Response:
    """A stream of so many events of so many bytes, the first at once; then it is quiet. Logs that it has ended."""
    numbers = iter(range(request.args.get("events", 1, int)))
    size = request.args.get("bytes", 1, int)

    async def next_event() -> Event | None:
        number = next(numbers, None)
        if number is None:
            await asyncio.Event().wait()
        return Event("x" * size, id=str(number), name="probe")

    @contextmanager
    def source() -> Iterator[NextEvent]:
        try:
            yield next_event
        finally:
            log.info("%s has ended", name)

    response = event_stream(source())
    assert isinstance(response, EventStream)
    response.send_timeout = request.args.get("send_timeout", response.send_timeout, float)
    return response


@blueprint.post("/unread")
async def unread() -> str:
    return "not read"


@blueprint.post("/echo")
async def echo() -> str | bytes:
    return await request.get_data()


@blueprint.post("/parts")
async def parts() -> str:
    """Reads the body part by part, and says how many bytes it had."""
    return str(sum([len(part) async for part in request.body]))


@blueprint.get("/session")
async def read_session() -> str:
    return str(session.get("value"))


@blueprint.post("/session/<value>")
async def write_session(value: str) -> str:
    session["value"] = value
    return ""


@blueprint.delete("/session")
async def clear_session() -> str:
    session.clear()
    return ""


@blueprint.post("/background/<name>")
async def background(name: str) -> str:
    async def work() -> None:
        await asyncio.sleep(0.2)
        log.info("%s is done", name)

    current_app.add_background_task(work)
    return ""


@blueprint.get("/token/<scope>")
async def token(scope: str) -> str:
    """Says in which process, and with which status the token for the scope is answered."""
    try:
        await require_token(scope)
    except Problem as error:
        return f"{os.getpid()} {error.status}"
    return f"{os.getpid()} 200"


@blueprint.get("/folder/")
async def folder() -> str:
    return ""


@blueprint.get("/plain")
def plain() -> str:
    return "not async"


@blueprint.websocket("/websocket")
async def answer() -> None:
    while True:
        await websocket.send(await websocket.receive())


@blueprint.websocket("/scheme")
async def websocket_scheme() -> None:
    await websocket.send(f"{websocket.scheme} {websocket.remote_addr}")


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


async def job() -> None:
    """Notes when it was due, and when it begins and ends."""
    begin = "INSERT INTO probe_run (due_at, begun) SELECT due_at, UTC_TIMESTAMP(6) FROM job WHERE name = 'probe'"
    async with transaction() as connection:
        await connection.execute(text(begin))
    await asyncio.sleep(float(os.environ["PROBE_JOB_SECONDS"]))
    async with transaction() as connection:
        await connection.execute(text("UPDATE probe_run SET ended = UTC_TIMESTAMP(6) WHERE ended IS NULL"))


app = create_app(load_settings())
app.register_blueprint(blueprint)
if schedule := os.environ.get("PROBE_JOB"):
    jobs.add(app, jobs.Job("probe", schedule, job))
