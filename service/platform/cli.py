"""What all commands of an operator's have in common, which may run beside the service on the same database."""

import asyncio
import sys
from collections.abc import AsyncIterator, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import NoReturn

import click
from sqlalchemy import exc
from sqlalchemy.ext.asyncio import AsyncConnection

from service.platform.database import temporary_engine
from service.platform.settings import DatabaseSettings

UNAVAILABLE = 69
"""sysexits(3)'s EX_UNAVAILABLE, as the migration job has it."""


def run(command: Coroutine[None, None, int]) -> NoReturn:
    """Ends the process with the exit code that the command returns, or 69 if the database cannot be used."""
    try:
        sys.exit(asyncio.run(command))
    except exc.DBAPIError as error:
        click.echo(f"The database cannot be used: {error.orig}", err=True)
        sys.exit(UNAVAILABLE)


@asynccontextmanager
async def transaction(database: DatabaseSettings) -> AsyncIterator[AsyncConnection]:
    """Lends a connection, and commits at the end of the block."""
    async with temporary_engine(database) as engine, engine.begin() as connection:
        yield connection


def aligned(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Returns the rows as lines, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
