"""The counters' API. Errors are Problem Details with the types of docs/counter/api.md; times are RFC 3339, in UTC."""

import re
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Literal, TypeVar, cast

import msgspec
from quart import Blueprint, Response, current_app, request, url_for
from quart_schema import document_headers, document_querystring, document_request, document_response, security_scheme
from werkzeug.exceptions import UnsupportedMediaType

from service.counter import reading, registry
from service.counter.answers import NoSuchCounter
from service.counter.idempotency import idempotency_key
from service.counter.models import (
    LARGEST_PAGE,
    Counted,
    Counter,
    History,
    HistoryQuery,
    KeyHeader,
    NewCounter,
    NewHit,
    Page,
    PageQuery,
    ReceiptRead,
)
from service.counter.names import check_name
from service.counter.openapi import problems
from service.platform.problems import Problem
from service.platform.tokens import require_scope

_T = TypeVar("_T")

LONGEST = {"hour": timedelta(days=31), "day": timedelta(days=3 * 365 + 1)}
"""The longest span of a history."""

_LIMIT = re.compile(r"[0-9]{1,3}")
_RECEIPT = re.compile(r"[0-9a-f]{32}")

blueprint = Blueprint("api", __name__, url_prefix="/counters")


class MalformedBody(Problem):
    """The request's body cannot be taken."""

    def __init__(self, reason: str) -> None:
        super().__init__(HTTPStatus.BAD_REQUEST, "malformed-body", f"The body cannot be taken: {reason}.")


class MalformedParameter(Problem):
    """A part of the request's address cannot be taken."""

    def __init__(self, reason: str) -> None:
        super().__init__(HTTPStatus.BAD_REQUEST, "malformed-parameter", reason)


@blueprint.post("/<name>/hits")
@document_headers(KeyHeader)
@document_request(NewHit)
@document_response(Counted)
@problems(400, 401, 403, 404, 408, 409, 413, 415, 422, 503, 504)
@security_scheme([{"bearer": []}])
async def hit(name: str) -> Response:
    """Counts. The same Idempotency-Key, of the same token, gives the same numbers again."""
    token = require_scope("count")
    body = await _body(NewHit)
    key = idempotency_key(request.headers)
    if key is not None and token is not None:
        key = f"{token.name}\n{key}"  # which no key without a token can be: none has a line break
    lanes = current_app.extensions["lanes"]
    create = lanes.settings.auto_create
    receipt = await lanes.hit(check_name(name), body.amount, key, create=create)
    return _json(Counted(name, receipt.last, receipt.first, receipt.last, receipt.key.hex()))


@blueprint.get("")
@document_querystring(PageQuery)
@document_response(Page)
@problems(400, 503, 504)
async def counters() -> Response:
    """The names of the counters, by pages in the order of their characters."""
    after, limit = request.args.get("after", ""), request.args.get("limit", "20")
    if _LIMIT.fullmatch(limit) is None or not 1 <= int(limit) <= LARGEST_PAGE:
        raise MalformedParameter(f"`limit` must be a whole number from 1 to {LARGEST_PAGE}.")
    size = int(limit)
    if after:
        check_name(after)
    names = await reading.names_after(after, size + 1)
    more = url_for("api.counters", after=names[size - 1], limit=size) if len(names) > size else None
    return _json(Page(names[:size], more))


@blueprint.get("/<name>")
@document_response(Counter)
@problems(400, 404, 503, 504)
async def counter(name: str) -> Response:
    """Reads without counting."""
    found = await reading.read(check_name(name))
    if found is None:
        raise NoSuchCounter
    return _json(found)


@blueprint.put("/<name>")
@document_request(NewCounter)
@document_response(Counter, 200)
@document_response(Counter, 201)
@problems(400, 401, 403, 404, 408, 409, 413, 415, 503, 504)
@security_scheme([{"bearer": []}])
async def make(name: str) -> Response:
    """Makes the counter, or gives the one that there is another title."""
    require_scope("manage")
    body = await _body(NewCounter)
    found, made = await registry.make(check_name(name), body.title, body.start)
    answer = _json(found, HTTPStatus.CREATED if made else HTTPStatus.OK)
    if made:
        answer.headers["Location"] = url_for("api.counter", name=name)
    return answer


@blueprint.delete("/<name>")
@problems(400, 401, 403, 404, 503, 504)
@security_scheme([{"bearer": []}])
async def delete(name: str) -> Response:
    """Deletes the counter with its receipts and its history."""
    require_scope("manage")
    if not await registry.delete_counter(check_name(name)):
        raise NoSuchCounter
    return Response(status=HTTPStatus.NO_CONTENT)


@blueprint.get("/<name>/history")
@document_querystring(HistoryQuery)
@document_response(History)
@problems(400, 404, 503, 504)
async def history(name: str) -> Response:
    """The hits of each hour or day (UTC) that has any, from whole hour to whole hour."""
    check_name(name)
    by = request.args.get("by", "hour")
    if by not in LONGEST:
        raise MalformedParameter("`by` must be `hour` or `day`.")
    start, end = _span(by)
    hits = await reading.hits_by(name, cast("Literal['hour', 'day']", by), start, end)
    if hits is None:
        raise NoSuchCounter
    return _json(History(name, cast("Literal['hour', 'day']", by), start, end, hits))


@blueprint.get("/<name>/receipts/<receipt>")
@document_response(ReceiptRead)
@problems(400, 404, 503, 504)
async def receipt(name: str, receipt: str) -> Response:
    """What a receipt was given."""
    if _RECEIPT.fullmatch(receipt) is None:
        raise MalformedParameter("A receipt has 32 hexadecimal digits, 0-9 and a-f.")
    found = await reading.receipt_of(check_name(name), bytes.fromhex(receipt))
    if found is None:
        text = "This counter has no such receipt; those that are old are rolled up."
        raise Problem(HTTPStatus.NOT_FOUND, "no-such-receipt", text)
    return _json(found)


def _span(by: str) -> tuple[datetime, datetime]:
    """Returns `from` and `to`, rounded down and up to whole hours. Raises MalformedParameter."""
    try:
        to = _time("to") or datetime.now(UTC)
        start = _time("from") or to - timedelta(hours=24)
        if start >= to:
            raise MalformedParameter("`from` must be before `to`.")
        if to - start > LONGEST[by]:
            raise MalformedParameter(f"By {by}, a history has {LONGEST[by].days} days at the most.")
        return _whole_hour(start), _whole_hour(to + timedelta(hours=1, microseconds=-1))
    except OverflowError:
        raise MalformedParameter("`from` and `to` must be in the years 1970 to 9998.") from None


def _time(parameter: str) -> datetime | None:
    """Returns the parameter as a time in UTC. Raises MalformedParameter, and OverflowError at the ends of time."""
    text = request.args.get(parameter)
    if text is None:
        return None
    try:
        time = msgspec.convert(text, datetime)
    except msgspec.ValidationError:
        time = None
    if time is None or time.tzinfo is None:
        raise MalformedParameter(f"`{parameter}` must be as in RFC 3339, with `Z` or an offset (its + written %2B).")
    if not 1970 <= time.year <= 9998:
        raise OverflowError
    return time.astimezone(UTC)


def _whole_hour(time: datetime) -> datetime:
    return time.replace(minute=0, second=0, microsecond=0)


async def _body(kind: type[_T]) -> _T:
    """Returns the request's JSON body, the defaults if it has none. Raises MalformedBody."""
    data = await request.get_data(as_text=False)
    if not data:
        return kind()
    if request.mimetype != "application/json":
        raise UnsupportedMediaType("The body must be application/json.")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedBody(str(error)) from None


def _json(value: object, status: int = HTTPStatus.OK) -> Response:
    headers = {"Cache-Control": "no-store"}
    return Response(msgspec.json.encode(value), status, headers, content_type="application/json")
