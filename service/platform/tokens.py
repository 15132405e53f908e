"""Bearer tokens (RFC 6750): a view asks `require_token`. They are made by `quart tokens`, or named in API_TOKENS."""

from http import HTTPStatus

from quart import current_app, request

from service.platform import token_commands
from service.platform.app import App
from service.platform.known_tokens import KnownTokens
from service.platform.problems import Problem
from service.platform.settings import Settings
from service.platform.token_file import Token, digest
from service.platform.token_table import TRY


class TokenRefused(Problem):
    """No token, one that is not valid, or one without the scope."""

    def __init__(self, status: HTTPStatus, slug: str, detail: str) -> None:
        super().__init__(status, slug, detail)
        self.headers = {"WWW-Authenticate": "Bearer"}


async def require_token(scope: str, name: str = "") -> Token | None:
    """Returns the request's token; None where tokens are not required and none was sent.

    `name`: of what the request is about, since a scope may be limited to names with a prefix. Raises TokenRefused, and
    Unavailable where the token may be in the database, which does not answer.
    """
    token = await given_token()
    if token is None:
        if not current_app.settings.api_tokens_required:  # type: ignore[attr-defined]  # an App
            return None
        text = "This needs a token: send `Authorization: Bearer …`; `quart tokens make` makes one."
        raise TokenRefused(HTTPStatus.UNAUTHORIZED, "token-needed", text)
    if not token.may(scope, name):
        raise TokenRefused(HTTPStatus.FORBIDDEN, "scope-missing", f"This token may not do this: it lacks `{scope}`.")
    return token


async def given_token() -> Token | None:
    """Returns the request's token, None if none was sent. Raises as `require_token` does for one that is not valid."""
    given = request.headers.get("Authorization")
    if given is None:
        return None
    kind, _, secret = given.partition(" ")
    settings: Settings = current_app.settings  # type: ignore[attr-defined]  # an App
    token = None
    if kind.lower() == "bearer":
        hashed = digest(secret.strip())
        known: KnownTokens = current_app.extensions["tokens"]
        token = settings.api_tokens.get(hashed) or await known.find(hashed)
    if token is None:
        text = "This token is not known here, or no longer valid."
        raise TokenRefused(HTTPStatus.UNAUTHORIZED, "token-unknown", text)
    return token


def register(app: App) -> None:
    """Adds `quart tokens`, and what a worker knows of the tokens in the database."""
    app.tries.append(TRY)
    app.extensions["tokens"] = KnownTokens()
    token_commands.register(app)
