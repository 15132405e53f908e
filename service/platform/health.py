"""`/livez`: this process answers. `/readyz`: it can also do its work, and is not about to leave.

Readiness is looked up by a connection outside the pool: a pool that is busy is not a reason to take the worker out, a
server that does not take what requests write is. So the statements of `App.tries` are tried, and rolled back.
"""

import asyncio
import contextlib
import contextvars
import logging
import shutil
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from alembic.script import ScriptDirectory
from quart import Response
from sqlalchemy import exc, text
from sqlalchemy.ext.asyncio import AsyncEngine

from service.platform import lifecycle, server_metrics
from service.platform.app import App
from service.platform.database import NotDurable, create_engine, error_code
from service.platform.metrics import before_scrape, gauge
from service.platform.mysql_errors import CR_SSL_CONNECTION_ERROR, ER_NO_SUCH_TABLE, NO_ROOM, way_out
from service.platform.problems import problem_details
from service.platform.settings import ROOT

TIMEOUT = 1.0
"""Seconds within which the database must answer."""

INTERVAL = 1.0
"""Seconds for which an answer is used again, however many ask."""

FULL = 0.9
"""The part of the disk above which there is too little left, as in deploy/status."""

# Natively the database is in it; in a container it is on the disk of the engine's volumes.
_FOLDER = ROOT / ".run" if (ROOT / ".run").exists() else ROOT

_REVISION = text("SELECT version_num FROM alembic_version")
_CAPACITY = text("SELECT @@max_connections")
_CONNECTED = text("SHOW GLOBAL STATUS LIKE 'Threads_connected'")

_READY = gauge("service_ready", "1 if the worker that is asked is ready, else 0.", joined="own")
_SCHEMA = gauge("service_schema_info", "1, with the revision of the database's schema.", ("revision",), joined="own")

log = logging.getLogger(__name__)


class Readiness:
    """The worker's readiness. Concurrent requests share one check of the database."""

    def __init__(self, app: App) -> None:
        self._settings = app.settings
        self._app = app
        scripts = ScriptDirectory(str(ROOT / "migrations"))
        self._known = {script.revision for script in scripts.walk_revisions()}
        self._needed = set(scripts.get_heads())
        self._engine: AsyncEngine | None = None
        self._check: asyncio.Task[tuple[str | None, str]] | None = None
        self._checked_at = self._ready_at = float("-inf")
        self._reason: str | None = ""
        self._full = False

    async def reason_against(self) -> str | None:
        """Returns a sentence that says why the worker is not ready, None if it is."""
        if lifecycle.draining():
            return "This worker is shutting down."
        now = asyncio.get_running_loop().time()
        if self._check is None or (self._check.done() and now >= self._checked_at + INTERVAL):
            self._checked_at = now
            assert self._engine is not None
            self._check = asyncio.create_task(self.check_database(self._engine), context=_outside_of_requests())
            _outside_of_requests().run(self._look_at_the_disk)
        # One that takes longer goes on: a login that is broken off is an error to the server, which after a hundred
        # of them takes none of this host any longer (error 1129).
        await asyncio.wait([self._check], timeout=TIMEOUT)
        if not self._check.done():
            return self._note(f"The database did not answer within {TIMEOUT:g} s.")
        return self._note(*self._check.result())

    def _note(self, reason: str | None, cause: str = "") -> str | None:
        """Returns the reason, and logs it where it is another one than before, with what is for the log alone."""
        if reason != self._reason:
            if reason is None:
                self._app.was_ready.set()
                _outside_of_requests().run(log.info, "ready")
            else:
                _outside_of_requests().run(log.warning, "not ready: %s", f"{reason} {cause}".strip())
        self._reason = reason
        return reason

    def _look_at_the_disk(self) -> None:
        """Logs that the disk is nearly full, and when it has room again. It is no reason against readiness."""
        disk = shutil.disk_usage(_FOLDER)
        part = disk.used / (disk.used + disk.free)
        if (part >= FULL) != self._full:
            self._full = not self._full
            left = f"the disk is {part:.0%} full, {disk.free / 2**20:,.0f} MiB are free"
            if self._full:
                log.warning('%s: docs/runbook.md, "The disk fills"', left)
            else:
                log.info("%s again", left)

    async def serve(self) -> AsyncGenerator[None]:
        """Runs while the application serves: logs when the worker becomes ready, and why it is not."""
        self._engine = create_engine(self._settings.database)
        stopping = asyncio.Event()
        waiting = asyncio.create_task(self._wait(stopping), name="readiness")
        yield
        stopping.set()
        # Neither is cancelled: a connection that is being made or closed in that moment would be left open.
        await asyncio.gather(waiting, return_exceptions=True)  # which may begin a check
        if self._check is not None:
            await asyncio.wait([self._check])
        await self._engine.dispose()

    async def _wait(self, stopping: asyncio.Event) -> None:
        """Looks until the worker is ready for the first time. Later it is looked only when somebody asks."""
        while await self.reason_against() is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL):
                    await stopping.wait()
                return
        await self._warn_of_too_many_connections()

    async def check_database(self, engine: AsyncEngine) -> tuple[str | None, str]:
        """Returns the reason against readiness, None if there is none, and what is for the log alone."""
        try:
            async with engine.connect() as connection:
                revisions = (await connection.execute(_REVISION)).scalars().all()
                _SCHEMA.clear()
                _SCHEMA.labels(", ".join(sorted(revisions))).set(1)
                if reason := self._reason_against_revisions(revisions):
                    return reason, ""
                for statement in self._app.tries:
                    await connection.execute(statement)  # rolled back with the connection's end
        except exc.DBAPIError as error:
            return self._reason_against_server(error), str(error.orig)
        except Exception as error:
            log.debug("readiness", exc_info=True)
            return "The database cannot be used.", f"{type(error).__name__}: {error}"
        self._ready_at = asyncio.get_running_loop().time()
        return None, ""

    def _reason_against_server(self, error: exc.DBAPIError) -> str | None:
        code = error_code(error)
        if code == ER_NO_SUCH_TABLE and error.statement == str(_REVISION):
            return self._reason_against_revisions([])
        if isinstance(error.orig, NotDurable):
            return str(error.orig.args[1])
        if code == CR_SSL_CONNECTION_ERROR and error.orig:
            return f"The database cannot be used ({error.orig.args[1]}){way_out(code)}."
        recently = self._ready_at + self._settings.database.idle_timeout // 2
        if code in NO_ROOM and asyncio.get_running_loop().time() < recently:
            return None  # the connections that it had then still serve (pool_recycle)
        return f"The database cannot be used (error {code}){way_out(code)}."

    def _reason_against_revisions(self, found: Sequence[str]) -> str | None:
        """A revision that this code does not know is one made after it, which must not take running workers out."""
        if set(found) == self._needed or not set(found) <= self._known:
            return None
        return (
            f"The database's schema is at revision {', '.join(found) or 'none'} and this code needs "
            f"{', '.join(self._needed)}: run the migration job (alembic upgrade head)."
        )

    async def measure(self) -> None:
        """Sets the metrics of the worker's readiness, and of the database's server."""
        is_ready = await self.reason_against() is None
        _READY.set(is_ready)
        if is_ready:
            assert self._engine is not None
            await server_metrics.measure(self._engine)

    async def _warn_of_too_many_connections(self) -> None:
        workers, connections = self._settings.workers, self._app.connections
        try:
            (maximum,) = await self._column(_CAPACITY)
            (connected,) = await self._column(_CONNECTED, 1)
        except exc.DBAPIError as error:
            log.warning("max_connections could not be read: %s", error.orig)
            return
        wanted, free = workers * connections, int(maximum) - int(connected) + 1
        if wanted > free:
            log.error(
                "%d workers x %d connections (all pools, and 1 for readiness) = %d connections, but the server's "
                "max_connections (%s) leaves %d free: lower WORKERS or DB_POOL_SIZE, or raise max_connections",
                *(workers, connections, wanted, maximum, free),
            )

    async def _column(self, statement: Any, index: int = 0) -> list[str]:
        assert self._engine is not None
        async with self._engine.connect() as connection:
            return [row[index] for row in await connection.execute(statement)]


def register(app: App) -> None:
    """Adds both routes, and logs when the worker becomes ready."""
    app.connections += 1
    readiness = Readiness(app)
    ready = f"ready, version {app.settings.version}" if app.settings.version else "ready"
    app.while_serving(readiness.serve)
    before_scrape(app, readiness.measure)

    @app.get("/livez")
    async def livez() -> Response:
        return _fine("alive")

    @app.get("/readyz")
    async def readyz() -> Response:
        reason = await readiness.reason_against()
        return _fine(ready) if reason is None else problem_details(503, reason)


def _outside_of_requests() -> contextvars.Context:
    """Returns an empty context, for what is not about the request that asked."""
    return contextvars.Context()


def _fine(text: str) -> Response:
    return Response(f"{text}\n", content_type="text/plain; charset=utf-8", headers={"Cache-Control": "no-store"})
