"""`quart jobs list`: what an operator asks about the jobs on a schedule."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.platform import cli
from service.platform.app import App
from service.platform.job_schedule import LEFT, SILENCE, Job, next_due
from service.platform.settings import DatabaseSettings
from service.platform.status import Line, Part

HEADINGS = ("name", "schedule", "next", "last", "ended", "result")

_ALL = text(
    "SELECT name, due_at, ended_at, error, seen_at > UTC_TIMESTAMP(6) - INTERVAL :silence SECOND AS is_seen FROM job"
).bindparams(silence=SILENCE)


def register(app: App, jobs: Sequence[Job]) -> None:
    """Adds `quart jobs`."""
    database = app.settings.database

    @app.cli.group("jobs")
    def group() -> None:
        """The jobs on a schedule."""

    @group.command("list")
    def list_command() -> None:
        """Lists the jobs, when they are due next and were the last time, and what became of it.

        Times are in UTC. Ends with 0, or 69 if the database is away.
        """
        cli.run(_list(database, jobs))


def status_of(jobs: Sequence[Job]) -> Part:
    """Returns what `quart status` says of the jobs, a line for each."""

    async def lines(connection: AsyncConnection) -> list[Line]:
        rows = await _rows(connection)
        return [_line(one, *_last(rows.get(one.name))) for one in sorted(jobs)]

    return lines


async def _rows(connection: AsyncConnection) -> dict[str, Row[Any]]:
    return {row.name: row for row in await connection.execute(_ALL)}


def _line(one: Job, last: str, _ended: str, became: str) -> Line:
    is_well = became in {"", "done", "at work", LEFT}
    return Line("job", f"{one.name}: {last} {became}".rstrip(), "" if is_well else "./run quart jobs list; ./run logs")


async def _list(database: DatabaseSettings, jobs: Sequence[Job]) -> int:
    async with cli.transaction(database) as connection:
        rows = await _rows(connection)
    now = datetime.now(UTC)
    lines = []
    for one in sorted(jobs):
        due = next_due(one.schedule, now)
        lines.append((one.name, one.schedule, _minute(due), *_last(rows.get(one.name))))
    for line in cli.aligned([HEADINGS, *lines]):
        click.echo(line)
    return 0


def _last(row: Row[Any] | None) -> tuple[str, str, str]:
    if row is None or row.due_at is None:
        return "never", "", ""
    if row.ended_at is not None:
        return _minute(row.due_at), _minute(row.ended_at), row.error or "done"
    return _minute(row.due_at), "", "at work" if row.is_seen else "its worker was lost"


def _minute(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M}"
