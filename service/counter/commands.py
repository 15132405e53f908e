"""`quart receipts …`: what an operator runs beside the service, on the same database."""

import asyncio
import sys

import click
from sqlalchemy import exc

from service.counter.receipts import verify
from service.database import create_engine
from service.settings import DatabaseSettings

UNAVAILABLE = 69
"""sysexits(3)'s EX_UNAVAILABLE, as the migration job has it."""


def receipts_group(database: DatabaseSettings) -> click.Group:
    """Returns the commands, for this database."""

    @click.group()
    def receipts() -> None:
        """The receipts that account for each number given."""

    @receipts.command("verify")
    @click.option("--verbose", "-v", is_flag=True, help="A line for each counter, also where all is right.")
    def verify_command(*, verbose: bool) -> None:
        """Says whether history and receipts account for each number of each counter, exactly once.

        It may run while the service counts. Ends with 0 if all is right, 1 if not, 69 if the database is away.
        """
        try:
            sys.exit(asyncio.run(_verify(database, verbose=verbose)))
        except exc.DBAPIError as error:
            click.echo(f"The database cannot be used: {error.orig}", err=True)
            sys.exit(UNAVAILABLE)

    return receipts


async def _verify(database: DatabaseSettings, *, verbose: bool) -> int:
    engine = create_engine(database)
    counters = wrong = read = 0
    try:
        async for verdict in verify(engine):
            counters += 1
            read += verdict.receipts
            if verdict.finding is not None:
                wrong += 1
                click.echo(f"{verdict.name}: {verdict.finding}")
            elif verbose:
                click.echo(f"{verdict.name}: {verdict.total}, right ({verdict.receipts} receipts)")
    finally:
        await engine.dispose()
    click.echo(f"{counters} counters, {read} receipts read, {wrong} counters wrong")
    return 1 if wrong else 0
