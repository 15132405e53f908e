"""`quart notes …`: what an operator runs beside the service, on the same database."""

from datetime import UTC, datetime, timedelta

import click
from sqlalchemy import bindparam, delete

from service.notes.tables import notes
from service.platform import cli
from service.platform.app import App
from service.platform.settings import DatabaseSettings

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
        cli.run(_prune(database, days))


async def prune(database: DatabaseSettings, days: int) -> int:
    """Deletes the notes that are older than so many days; returns how many."""
    before = datetime.now(UTC).replace(tzinfo=None) - timedelta(days=days)
    async with cli.transaction(database) as connection:
        return (await connection.execute(DELETE_OLD, {"before": before})).rowcount


async def _prune(database: DatabaseSettings, days: int) -> int:
    click.echo(f"{await prune(database, days)} notes deleted")
    return 0
