"""Who may read: anybody, but private counters only with a token that has the scope `read`; to others there are none.

And who may count by the API.
"""

import operator
from collections.abc import Callable
from http import HTTPStatus
from typing import TypeVar

from quart import current_app

from service.counter import queries
from service.counter.errors import NoSuchCounter
from service.counter.models import Counter, PageQuery
from service.counter.names import check_name
from service.platform.token_file import Token
from service.platform.tokens import TokenRefused, given_token, require_token

PUBLISH = "publish"

EVERY = ("",)
"""The prefix of every name."""

_T = TypeVar("_T")


async def readable(name: str) -> Counter:
    """Returns the counter. Raises MalformedName and NoSuchCounter."""
    return (await readable_with_id(name))[1]


async def readable_with_id(name: str) -> tuple[int, Counter]:
    """Returns the counter's id and the counter. Raises as `readable` does."""
    return await allowed(name, await queries.read_with_id(check_name(name)), lambda found: found[1].private)


async def readable_id(name: str) -> int:
    """Returns the counter's id. Raises as `readable` does."""
    return int((await allowed(name, await queries.find(check_name(name)))).id)


async def counting(name: str) -> tuple[Token | None, bool]:
    """Returns the token that may count, None where none is needed, and whether it is a publishable one of this counter.

    Raises TokenRefused.
    """
    try:
        return await require_token("count", name), False
    except TokenRefused as error:
        if (
            error.status == HTTPStatus.FORBIDDEN
            and (token := await given_token())
            and publishable(name) in token.scopes
        ):
            return token, True
        raise


def publishable(name: str) -> str:
    """Returns the scope of a token that may stand in a web page, and do nothing but count one on this counter."""
    return f"{PUBLISH}:{name}"


async def allowed(
    name: str, found: _T | None, is_private: Callable[[_T], bool] = operator.attrgetter("is_private")
) -> _T:
    """Returns what was found of the counter. Raises NoSuchCounter if that is nothing, or not for the one who asks.

    For a counter that is there for everybody no token is looked up, and a 401 would say that there is a private one.
    One that is not there is checked as a private one: else the time, or a 503 where the tokens cannot be read, would.
    """
    if found is None or is_private(found):
        try:
            prefixes = await private_prefixes()
        except TokenRefused:
            raise NoSuchCounter from None
        if found is None or not name.startswith(prefixes):
            raise NoSuchCounter
    return found


async def names(asked: PageQuery) -> tuple[list[str], bool]:
    """Returns a page of the names that the one who asks may read, and whether more follow.

    Raises MalformedName and TokenRefused.
    """
    if asked.after:
        check_name(asked.after)
    found = await queries.names_after(asked.after, asked.limit + 1, await private_prefixes())
    return found[: asked.limit], len(found) > asked.limit


async def private_prefixes() -> tuple[str, ...]:
    """Returns with what the names of those private counters begin that the one who asks may read.

    Raises TokenRefused if the token is not valid.
    """
    token = await given_token()
    if token is None:
        return () if current_app.settings.api_tokens_required else EVERY  # type: ignore[attr-defined]  # an App
    return token.prefixes("read")
