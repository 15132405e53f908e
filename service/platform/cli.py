"""What all commands of an operator's have in common, which may run beside the service on the same database."""

import asyncio
import sys
from collections.abc import Coroutine
from typing import NoReturn

import click
from sqlalchemy import exc

UNAVAILABLE = 69
"""sysexits(3)'s EX_UNAVAILABLE, as the migration job has it."""


def run(command: Coroutine[None, None, int]) -> NoReturn:
    """Ends the process with the exit code that the command returns, or 69 if the database cannot be used."""
    try:
        sys.exit(asyncio.run(command))
    except exc.DBAPIError as error:
        click.echo(f"The database cannot be used: {error.orig}", err=True)
        sys.exit(UNAVAILABLE)
