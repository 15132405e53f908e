"""`quart tokens …`: makes, lists and revokes tokens in the database, beside the service. Never shows a hash."""

import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import click
from sqlalchemy import Row, exc

from service.platform import cli
from service.platform.app import App
from service.platform.known_tokens import FRESH, INTERVAL, KEPT
from service.platform.settings import DatabaseSettings
from service.platform.token_file import Token, digest, line_of
from service.platform.token_table import ALL, HOW_MANY_VALID, LONGEST_SCOPES, MAKE, NAMED, REVOKE

MOST = 1_000
"""Tokens in the database that may be valid at a time: each worker reads all of them, 1,000 in 8 ms of a core."""

HEADINGS = ("name", "scopes", "state", "made", "until", "last use", "kept in")


def register(app: App) -> None:
    """Adds `quart tokens`."""
    settings = app.settings

    @app.cli.group()
    def tokens() -> None:
        """The API's tokens."""

    @tokens.command("make")
    @click.argument("name")
    @click.option(
        "--scope",
        "scopes",
        multiple=True,
        required=True,
        help="What it may do; can be given again. With :PREFIX, for such names alone; some are for one :NAME.",
    )
    @click.option("--until", type=click.DateTime(["%Y-%m-%d"]), callback=_last_day, help="Its last day, in UTC.")
    @click.option("--print-only", is_flag=True, help="Write nothing, and print the line for API_TOKENS.")
    def make_command(name: str, scopes: tuple[str, ...], until: date | None, *, print_only: bool) -> None:
        """Makes a token in the database and shows it once, on standard output.

        All workers know it a second later. A name is taken for ever, also where its token is revoked.
        Ends with 0, 1 if the name is taken, 2 if an argument is malformed, 69 if the database is away.
        """
        _make_or_print(app, name, scopes, until, print_only=print_only)

    @tokens.command("list")
    def list_command() -> None:
        """Lists all tokens, sorted by name, with their state: valid, expired or revoked.

        Days are in UTC; the last use is not known of those in API_TOKENS. Ends with 0, 69 if the database is away.
        """
        cli.run(_list(settings.database, settings.api_tokens))

    @tokens.command("revoke")
    @click.argument("name")
    def revoke_command(name: str) -> None:
        """Revokes the token of that name, for ever.

        Ends with 0, also where it was revoked before, 1 if there is none of that name, 69 if the database is away.
        """
        cli.run(_revoke(settings.database, name, settings.api_tokens))


def _make_or_print(app: App, name: str, scopes: tuple[str, ...], until: date | None, *, print_only: bool) -> None:
    settings = app.settings
    secret = secrets.token_urlsafe(32)
    scopes = tuple(sorted({scope for given in scopes for scope in given.split(",")}))
    line = _line_in_file(app, name, scopes, secret)
    if print_only:
        if until is not None:
            raise click.UsageError("A line of API_TOKENS has no end: leave out --until or --print-only.")
        _show(secret, f"Add to API_TOKENS or the file of API_TOKENS_FILE, and start the service anew:\n{line}")
        return
    if any(token.name == name for token in settings.api_tokens.values()):
        raise _taken(name, "in API_TOKENS")
    if len(",".join(scopes)) > LONGEST_SCOPES:
        raise click.BadParameter(f"all scopes of a token have {LONGEST_SCOPES} characters at the most.")
    cli.run(_make(settings.database, name, scopes, secret, until))


def _line_in_file(app: App, name: str, scopes: tuple[str, ...], secret: str) -> str:
    """Returns the token's line for API_TOKENS. Raises BadParameter."""
    if bare := sorted(app.scopes_of_one.intersection(scopes)):
        raise click.BadParameter(f"the scope {bare[0]} is for one name alone, exactly: write {bare[0]}:NAME.")
    try:
        return line_of(name, scopes, secret)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _last_day(_context: click.Context, _parameter: click.Parameter, value: datetime | None) -> date | None:
    if value is None:
        return None
    if not datetime.now(UTC).date() <= value.date() < date.max:
        raise click.BadParameter("the last day of a token is today (in UTC) or later, and before the end of 9999.")
    return value.date()


def _taken(name: str, where: str) -> click.ClickException:
    return click.ClickException(f"There is a token {name} {where} already: choose another name.")


def _show(secret: str, text: str) -> None:
    """Prints the token on standard output, alone, so that it can be piped into where it is kept."""
    click.echo(secret)
    click.echo(f"Above is the token, which is shown only now. {text}", err=True)


async def _make(database: DatabaseSettings, name: str, scopes: Sequence[str], secret: str, until: date | None) -> int:
    end = None if until is None else datetime.combine(until + timedelta(days=1), time.min)
    new = {"name": name, "scopes": ",".join(scopes), "hash": bytes.fromhex(digest(secret)), "expires_at": end}
    try:
        async with cli.transaction(database) as connection:
            if (await connection.execute(HOW_MANY_VALID)).scalar_one() >= MOST:
                raise click.ClickException(f"There are {MOST} valid tokens, which is the most: revoke one.")
            await connection.execute(MAKE, new)
    except exc.IntegrityError:
        raise _taken(name, "in the database") from None
    _show(secret, f"Each worker knows it {INTERVAL:g} s from now.")
    return 0


async def _list(database: DatabaseSettings, elsewhere: Mapping[str, Token]) -> int:
    async with cli.transaction(database) as connection:
        rows = [_line(row) for row in await connection.execute(ALL)]
    rows += [(one.name, ",".join(sorted(one.scopes)), "valid", "", "", "", "API_TOKENS") for one in elsewhere.values()]
    for line in cli.aligned([HEADINGS, *sorted(rows)]):
        click.echo(line)
    return 0


def _line(row: Row[Any]) -> tuple[str, ...]:
    until = "" if row.expires_at is None else f"{row.expires_at - timedelta(microseconds=1):%Y-%m-%d}"
    used = "never" if row.last_used_on is None else str(row.last_used_on)
    return row.name, row.scopes, row.state, f"{row.created_at:%Y-%m-%d}", until, used, "database"


async def _revoke(database: DatabaseSettings, name: str, elsewhere: Mapping[str, Token]) -> int:
    async with cli.transaction(database) as connection:
        revoked = (await connection.execute(REVOKE, {"of": name})).rowcount
        is_there = revoked or (await connection.execute(NAMED, {"of": name})).first() is not None
    if revoked:
        click.echo(
            f"{name} is revoked. Each worker refuses it {FRESH:g} s from now at the latest, "
            f"and one that does not reach the database {KEPT:g} s from now."
        )
    elif is_there:
        click.echo(f"{name} was revoked before.")
    elif any(token.name == name for token in elsewhere.values()):
        raise click.ClickException(f"{name} is in API_TOKENS: take its line out, and start the service anew.")
    else:
        raise click.ClickException(f"There is no token {name}: `quart tokens list` lists all.")
    return 0
