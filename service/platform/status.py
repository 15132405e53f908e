"""`quart status`: how the service is, in plain words, and what to do where something is wrong.

Each part of the application adds lines of its own by `add`. `./run status` shows them below what runs where.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import click
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.platform import cli
from service.platform.app import App
from service.platform.database import temporary_engine
from service.platform.health import Readiness

NEARLY_ALL = 0.9
"""The part of max_connections above which there are too few left for a deploy or a burst."""

_SERVER = text("SELECT VERSION(), (SELECT version_num FROM alembic_version), @@max_connections")
_COUNTS = text("SHOW GLOBAL STATUS WHERE Variable_name IN ('Uptime', 'Threads_connected', 'Max_used_connections')")
_SIZE = text(
    "SELECT COALESCE(SUM(data_length + index_length), 0) FROM information_schema.tables WHERE table_schema = DATABASE()"
)


class Line(NamedTuple):
    """What is said of a topic; where something is wrong, `remedy` says what to do."""

    topic: str
    text: str
    remedy: str = ""


Part = Callable[[AsyncConnection], Awaitable[list[Line]]]


def add(app: App, part: Part) -> None:
    """Has `quart status` say what the part returns, which is given a connection to the database."""
    app.extensions.setdefault("status", []).append(part)


def register(app: App) -> None:
    """Adds `quart status`."""
    add(app, _database)

    @app.cli.command("status")
    def status_command() -> None:
        """Says how the service is, and what to do where something is wrong.

        Ends with 0, or 1 if something is wrong.
        """
        cli.run(_status(app))


async def _status(app: App) -> int:
    status = 0
    async for line in _lines(app):
        click.echo(f"{line.topic:<12}  {line.text}")
        if line.remedy:
            status = 1
            click.echo(f"{'':<10}->  {line.remedy}")
    return status


async def _lines(app: App) -> AsyncIterator[Line]:
    if app.settings.version:
        yield Line("version", app.settings.version)
    async with temporary_engine(app.settings.database) as engine:
        reason, _ = await Readiness(app).check_database(engine)
        if reason is not None:
            yield Line("readiness", reason, 'docs/runbook.md, "Not ready"')
            return  # what is missing may be what the others read
        async with engine.connect() as connection:
            for part in app.extensions["status"]:
                for line in await part(connection):
                    yield line


async def _database(connection: AsyncConnection) -> list[Line]:
    version, revision, most = (await connection.execute(_SERVER)).one()
    counts: dict[str, Any] = {name: int(value) for name, value in await connection.execute(_COUNTS)}
    size: Any = (await connection.execute(_SIZE)).scalar_one()
    now, peak = counts["Threads_connected"], counts["Max_used_connections"]
    return [
        Line(
            "database",
            f"{version}, up for {_duration(counts['Uptime'])}, schema {revision}, {int(size) / 2**20:,.0f} MiB",
        ),
        Line(
            "connections",
            f"{now} of {most}, {peak} at the most since its start",
            ""
            if now < NEARLY_ALL * int(most)
            else "raise max_connections, or lower DB_POOL_SIZE, WORKERS or WEB_REPLICAS",
        ),
    ]


def _duration(seconds: int) -> str:
    for unit, length in ("days", 86_400), ("hours", 3_600), ("minutes", 60):
        if seconds >= 2 * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} seconds"
