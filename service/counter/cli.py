"""`quart receipts …`: an operator's commands, which may run beside the service on the same database."""

import click

from service.counter.gaps import NotFilled, fill_gaps
from service.counter.roll_up import delete_left_over, roll_up
from service.counter.settings import CounterSettings
from service.counter.verification import verify
from service.platform import cli
from service.platform.app import App
from service.platform.database import temporary_engine
from service.platform.settings import DatabaseSettings


def register(app: App, settings: CounterSettings) -> None:
    """Adds `quart receipts`."""
    database = app.settings.database

    @app.cli.group()
    def receipts() -> None:
        """The receipts, which account for each number that was given."""

    @receipts.command("verify")
    @click.option("--verbose", "-v", is_flag=True, help="Print a line for each counter, not only for wrong ones.")
    def verify_command(*, verbose: bool) -> None:
        """Checks that history and receipts account for each number of each counter exactly once.

        It may run while the service counts. Ends with 0 if all is right, 1 if not, 69 if the database is away.
        """
        cli.run(_verify(database, verbose=verbose))

    @receipts.command("roll-up")
    def roll_up_command() -> None:
        """Turns receipts older than RECEIPT_RETENTION into hits of an hour, and deletes them and deleted counters'.

        It may run while the service counts, and twice at once; it may be stopped and started at any time. Ends with 0,
        or 69 if the database is away.
        """
        cli.run(_roll_up(database, settings.receipt_retention))

    @receipts.command("fill-gaps")
    @click.argument("name")
    def fill_gaps_command(name: str) -> None:
        """Gives the numbers of the counter NAME that have no receipt one: a version without receipts has given them.

        Run it once the workers of that version have ended. It may run while the service counts. Ends with 0, 1 if
        nothing could be done, 69 if the database is away.
        """
        cli.run(_fill_gaps(database, name))


async def _verify(database: DatabaseSettings, *, verbose: bool) -> int:
    counters = wrong = read = 0
    async with temporary_engine(database) as engine:
        async for verdict in verify(engine):
            counters += 1
            read += verdict.receipts
            if verdict.finding is not None:
                wrong += 1
                click.echo(f"{verdict.name}: {verdict.finding}")
            elif verbose:
                click.echo(f"{verdict.name}: {verdict.total}, right ({verdict.receipts} receipts)")
    click.echo(f"{counters} counters, {read} receipts read, {wrong} counters wrong")
    return 1 if wrong else 0


async def _roll_up(database: DatabaseSettings, retention: int) -> int:
    total = busy = 0
    async with temporary_engine(database) as engine:
        async for rolled_up in roll_up(engine, retention):
            if rolled_up.receipts is None:
                busy += 1
                click.echo(f"{rolled_up.name}: left to another roll-up, which is at work on it", err=True)
            elif rolled_up.receipts:
                total += rolled_up.receipts
                click.echo(f"{rolled_up.name}: {rolled_up.receipts} receipts")
        left_over = await delete_left_over(engine)
    click.echo(f"{total} receipts rolled up, {left_over} of deleted counters deleted, {busy} counters left to another")
    return 0


async def _fill_gaps(database: DatabaseSettings, name: str) -> int:
    try:
        async with temporary_engine(database) as engine:
            filled = await fill_gaps(engine, name)
    except NotFilled as error:
        click.echo(f"{name}: {error}", err=True)
        return 1
    click.echo(f"{name}: {filled} numbers were without a receipt, and have one now")
    return 0
