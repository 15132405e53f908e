"""Bearer tokens (RFC 6750): a view asks `require_scope`, and `quart tokens make` makes them."""

import secrets
from http import HTTPStatus

import click
from quart import current_app, request

from service.platform.app import App
from service.platform.problems import Problem
from service.platform.settings import Settings
from service.platform.token_file import Token, digest, line_of


class TokenRefused(Problem):
    """No token, an unknown one, or one without the scope."""

    def __init__(self, status: HTTPStatus, slug: str, detail: str) -> None:
        super().__init__(status, slug, detail)
        self.headers = {"WWW-Authenticate": "Bearer"}


def require_scope(scope: str) -> Token | None:
    """Returns the request's token; None where tokens are not required and none was sent. Raises TokenRefused."""
    settings: Settings = current_app.settings  # type: ignore[attr-defined]  # an App
    given = request.headers.get("Authorization")
    if given is None:
        if not settings.api_tokens_required:
            return None
        text = "This needs a token: send `Authorization: Bearer …`; `quart tokens make` makes one."
        raise TokenRefused(HTTPStatus.UNAUTHORIZED, "token-needed", text)
    kind, _, secret = given.partition(" ")
    token = settings.api_tokens.get(digest(secret.strip())) if kind.lower() == "bearer" else None
    if token is None:
        raise TokenRefused(HTTPStatus.UNAUTHORIZED, "token-unknown", "This token is not known here.")
    if scope not in token.scopes:
        raise TokenRefused(HTTPStatus.FORBIDDEN, "scope-missing", f"This token may not do this: it lacks `{scope}`.")
    return token


def register(app: App) -> None:
    """Adds `quart tokens`."""

    @app.cli.group()
    def tokens() -> None:
        """The API's tokens."""

    @tokens.command()
    @click.argument("name")
    @click.option("--scope", "scopes", multiple=True, required=True, help="What it may do; can be given again.")
    def make(name: str, scopes: tuple[str, ...]) -> None:
        """Makes a token and shows it once, with the line that belongs in the file of API_TOKENS_FILE."""
        secret = secrets.token_urlsafe(32)
        try:
            line = line_of(name, scopes, secret)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None
        click.echo(secret)
        click.echo(
            f"Above is the token, which is shown only now. Add to API_TOKENS or the file of API_TOKENS_FILE:\n{line}",
            err=True,
        )
