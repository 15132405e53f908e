"""Bodies and query strings as msgspec structs, which /openapi.json shows as well, and JSON responses."""

import functools
import re
from collections.abc import Hashable
from http import HTTPStatus
from typing import Any, TypeVar, cast

import msgspec
from quart import Response, request
from werkzeug.exceptions import UnsupportedMediaType

from service.platform.http_connection import has_no_body
from service.platform.problems import Problem

_T = TypeVar("_T")

_WHOLE = re.compile(r"[0-9]{1,18}")
_PLACE = re.compile(r" - at `\$\.(.+)`$")
"""The end of msgspec's messages, which names the field."""


class MalformedBody(Problem):
    """The request's body is malformed."""

    def __init__(self, reason: str) -> None:
        super().__init__(HTTPStatus.BAD_REQUEST, "malformed-body", f"The body cannot be taken: {reason}.")


class MalformedParameter(Problem):
    """A path or query parameter is malformed."""

    def __init__(self, reason: str) -> None:
        super().__init__(HTTPStatus.BAD_REQUEST, "malformed-parameter", reason)


async def read_body() -> bytes:
    """Returns the request's body, whole: to be awaited before anything is changed, also where it is not used.

    Hypercorn answers a body that is malformed or cut off with 400 of its own, whatever the view has done by then.
    """
    if has_no_body(request.scope):  # most requests: Quart would make a timer, on Python 3.11 a task, for nothing
        return b""
    return cast("bytes", await request.get_data(as_text=False))


async def body(kind: type[_T]) -> _T:
    """Returns the request's JSON body as a struct, its defaults if there is none.

    Raises MalformedBody, and UnsupportedMediaType where it is of another type than application/json.
    """
    data = await read_body()
    if not data:
        return kind()
    if request.mimetype != "application/json":
        raise UnsupportedMediaType("The body must be application/json.")
    try:
        try:
            return msgspec.json.decode(data, type=kind)
        except msgspec.ValidationError:
            return msgspec.convert(_whole(msgspec.json.decode(data)), kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedBody(str(error)) from None


def _whole(value: Any) -> Any:
    """Returns the value with 2.0 as 2, which JSON Schema takes for an integer and msgspec does not."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [_whole(one) for one in value]
        case dict():
            return {name: _whole(one) for name, one in value.items()}
    return value


def query(kind: type[_T]) -> _T:
    """Returns the query string as a struct; unknown parameters are ignored, and of repeated ones the first counts.

    Raises MalformedParameter, which ends with the field's description in the struct.
    """
    fields = _fields(kind)  # type: ignore[arg-type]  # mypy does not take a class for hashable
    given: dict[str, object] = {}
    for name, (is_number, _) in fields.items():
        text = request.args.get(name)
        if text is not None:
            given[name] = int(text) if is_number and _WHOLE.fullmatch(text) else text
    try:
        # Strictly: otherwise a number is taken for a time, and 1e1 for a whole number.
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        place = _PLACE.search(str(error))
        name = place[1] if place else ""
        reason = str(error).removesuffix(place[0] if place else "")
        raise MalformedParameter(f"`{name}`: {reason}. {fields[name][1] if name in fields else ''}".rstrip()) from None


def answer(value: object, status: int = HTTPStatus.OK) -> Response:
    """Returns the value as a JSON response with `Cache-Control: no-store`."""
    headers = {"Cache-Control": "no-store"}
    return Response(msgspec.json.encode(value), status, headers, content_type="application/json")


@functools.cache
def _fields(kind: Hashable) -> dict[str, tuple[bool, str]]:
    """Returns for each field, by its name in a query string, whether it is a whole number, and its description."""
    schema: dict[str, Any]
    (_,), components = msgspec.json.schema_components([kind])
    fields = {}
    for name, schema in next(iter(components.values()))["properties"].items():
        fields[name] = schema.get("type") == "integer", schema.get("description", "")
    return fields
