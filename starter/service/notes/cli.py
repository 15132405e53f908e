"""`quart notes …`: what an operator runs beside the service, on the same database."""

import asyncio
import sys
from datetime import UTC, datetime, timedelta

import click
from sqlalchemy import bindparam, delete, exc

from service.notes.tables import notes
from service.platform.app import App
from service.platform.database import create_engine
from service.platform.settings import DatabaseSettings

UNAVAILABLE = 69
"""sysexits(3)'s EX_UNAVAILABLE, as the migration job has it."""

DELETE_OLD = delete(notes).where(notes.c.created_at < bindparam("before"))


def register(app: App) -> None:
    """Adds `quart notes`."""
    database = app.settings.database

    @app.cli.group("notes")
    def group() -> None:
        """The notes."""

    @group.command("prune")
    @click.argument("days", type=click.IntRange(min=0, max=36_500))
    def prune_command(days: int) -> None:
        """Deletes the notes that are older than DAYS. Ends with 0, or 69 if the database is away."""
        try:
            click.echo(f"{asyncio.run(_prune(database, days))} notes deleted")
        except exc.DBAPIError as error:
            click.echo(f"The database cannot be used: {error.orig}", err=True)
            sys.exit(UNAVAILABLE)


async def _prune(database: DatabaseSettings, days: int) -> int:
    """Returns how many notes were deleted."""
    before = datetime.now(UTC).replace(tzinfo=None) - timedelta(days=days)
    engine = create_engine(database)
    try:
        async with engine.begin() as connection:
            return (await connection.execute(DELETE_OLD, {"before": before})).rowcount
    finally:
        await engine.dispose()
