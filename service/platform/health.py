"""`/livez`: this process answers. `/readyz`: it can also do its work, and is not about to leave.

Readiness is looked up anew each time, over a connection outside the pool: a pool that is busy is not a reason to take
the worker out, one that hangs on a lost server is.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator
from typing import Any

from alembic.config import Config
from alembic.script import ScriptDirectory
from quart import Response
from sqlalchemy import exc, text
from sqlalchemy.ext.asyncio import AsyncEngine

from service.platform import lifecycle
from service.platform.app import App
from service.platform.database import NotDurable, create_engine, error_code
from service.platform.mysql_errors import ER_NO_SUCH_TABLE
from service.platform.problems import problem_details
from service.platform.settings import ROOT

TIMEOUT = 1.0
"""Seconds within which the database must answer."""

_REVISION = text("SELECT version_num FROM alembic_version")
_CAPACITY = text("SELECT @@max_connections")
_CONNECTED = text("SHOW GLOBAL STATUS LIKE 'Threads_connected'")

log = logging.getLogger(__name__)


class Readiness:
    """The worker's readiness. Concurrent requests share one check of the database."""

    def __init__(self, app: App) -> None:
        self._settings = app.settings
        self._app = app
        scripts = ScriptDirectory.from_config(Config(ROOT / "alembic.ini"))
        self._known = {script.revision for script in scripts.walk_revisions()}
        self._needed = set(scripts.get_heads())
        self._engine: AsyncEngine | None = None
        self._look: asyncio.Task[str | None] | None = None

    async def reason_against(self) -> str | None:
        """Returns a sentence that says why the worker is not ready, None if it is."""
        if lifecycle.draining():
            return "This worker is shutting down."
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._look_at_database())
        return await asyncio.shield(self._look)

    async def serve(self) -> AsyncGenerator[None]:
        """Runs while the application serves: logs when the worker becomes ready, and why it is not."""
        self._engine = create_engine(self._settings.database)
        stopping = asyncio.Event()
        waiting = asyncio.create_task(self._wait(stopping), name="readiness")
        yield
        stopping.set()
        # Neither is cancelled: a connection that is being made or closed in that moment would be left open.
        await asyncio.gather(waiting, *filter(None, [self._look]), return_exceptions=True)
        await self._engine.dispose()

    async def _wait(self, stopping: asyncio.Event) -> None:
        last = ""
        while (reason := await self.reason_against()) is not None:
            if reason != last:
                log.warning("not ready: %s", reason)
            last = reason
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TIMEOUT):
                    await stopping.wait()
                return
        log.info("ready")
        await self._warn_of_too_many_connections()

    async def _look_at_database(self) -> str | None:
        try:
            async with asyncio.timeout(TIMEOUT):
                return self._reason_against_revisions(await self._column(_REVISION))
        except TimeoutError:
            return f"The database did not answer within {TIMEOUT:g} s."
        except exc.DBAPIError as error:
            if error_code(error) == ER_NO_SUCH_TABLE:
                return self._reason_against_revisions([])
            if isinstance(error.orig, NotDurable):
                return str(error.orig.args[1])
            log.debug("readiness: %s", error.orig)
            return f"The database cannot be used (error {error_code(error)})."

    def _reason_against_revisions(self, found: list[str]) -> str | None:
        """A revision that this code does not know is one made after it, which must not take running workers out."""
        if set(found) == self._needed or not set(found) <= self._known:
            return None
        return (
            f"The database's schema is at revision {', '.join(found) or 'none'} and this code needs "
            f"{', '.join(self._needed)}: run the migration job (alembic upgrade head)."
        )

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
    app.while_serving(readiness.serve)

    @app.get("/livez")
    async def livez() -> Response:
        return _fine("alive")

    @app.get("/readyz")
    async def readyz() -> Response:
        reason = await readiness.reason_against()
        return _fine("ready") if reason is None else problem_details(503, reason)


def _fine(text: str) -> Response:
    return Response(f"{text}\n", content_type="text/plain; charset=utf-8", headers={"Cache-Control": "no-store"})
