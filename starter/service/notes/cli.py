"""`quart notes …`: what an operator runs beside the service, on the same database."""

from datetime import UTC, datetime, timedelta

import click
from sqlalchemy import bindparam, delete

from service.notes.tables import notes
from service.platform import cli
from service.platform.app import App
from service.platform.database import create_engine
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


async def _prune(database: DatabaseSettings, days: int) -> int:
    before = datetime.now(UTC).replace(tzinfo=None) - timedelta(days=days)
    engine = create_engine(database)
    try:
        async with engine.begin() as connection:
            deleted = (await connection.execute(DELETE_OLD, {"before": before})).rowcount
    finally:
        await engine.dispose()
    click.echo(f"{deleted} notes deleted")
    return 0
