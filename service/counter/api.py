"""The counters' API. Errors are Problem Details with the types of docs/counter/api.md; times are RFC 3339, in UTC."""

import re
from datetime import timedelta
from http import HTTPStatus

from quart import Blueprint, Response, current_app, request, url_for
from quart_schema import document_headers, document_querystring, document_request, document_response, security_scheme

from service.counter import access, commands, pages, queries
from service.counter.errors import CrawlersDoNotCount, NoSuchCounter, NoSuchReceipt, PublishedAmount, VisitorsKey
from service.counter.models import (
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
from service.counter.negotiation import TEXT, prefers, text
from service.counter.options import options
from service.counter.replays import say_if_replayed
from service.counter.span import span
from service.counter.views import is_left_out, visitor_key
from service.platform.idempotency import idempotency_key
from service.platform.openapi import API, media_types, problems
from service.platform.request_data import MalformedParameter, answer, body, query, read_body
from service.platform.tokens import require_token

_RECEIPT = re.compile(r"[0-9a-f]{32}")

DESCRIBED = API(
    title="Tally",
    version="0.1.0",
    blueprints=("api", "badges", "export", "image_hits"),
    path_parameters={
        "name": {"type": "string", "pattern": "^[a-z0-9][a-z0-9._-]{0,62}$"},
        "receipt": {"type": "string", "pattern": f"^{_RECEIPT.pattern}$"},
        "form": {"type": "string", "enum": ["csv", "ndjson"]},
    },
    errors="See docs/counter/api.md.",
)

blueprint = Blueprint("api", __name__, url_prefix="/counters")


@blueprint.post("/<name>/hits")
@document_headers(KeyHeader)
@document_request(NewHit)
@document_response(Counted)
@media_types(TEXT)
@problems(400, 401, 403, 404, 408, 409, 413, 415, 422, 503, 504)
@security_scheme([{"bearer": []}])
async def hit(name: str) -> Response:
    """Counts. A request repeated with the same Idempotency-Key and token gets the same numbers."""
    token, is_published = await access.counting(name)
    new = await body(NewHit)
    key = idempotency_key(request.headers)
    if is_published:
        if is_left_out():
            raise CrawlersDoNotCount
        if new.amount != 1:
            raise PublishedAmount
        if (await options().of(check_name(name))).views == "visitors":
            if key is not None:
                raise VisitorsKey
            key, token = visitor_key(name), None
    if key is not None and token is not None:
        key = f"{token.name}\n{key}"  # which no key without a token can be: none has a line break
    lanes = current_app.extensions["lanes"]
    create = lanes.settings.auto_create and not is_published
    receipt = await lanes.hit(check_name(name), new.amount, key, create=create)
    if prefers(TEXT) == TEXT:
        response = text(receipt.last)
    else:
        response = answer(Counted(name, receipt.last, receipt.first, receipt.last, receipt.key.hex()))
    say_if_replayed(response, receipt)
    return response


@blueprint.get("")
@pages.or_page(pages.counters)
@document_querystring(PageQuery)
@document_response(Page)
@problems(400, 401, 503, 504)
async def counters() -> Response:
    """The counters' names in pages, ordered by character; those of private counters for those who may read them."""
    page = query(PageQuery)
    names, has_more = await access.names(page)
    return answer(Page(names, url_for("api.counters", after=names[-1], limit=page.limit) if has_more else None))


@blueprint.get("/<name>")
@pages.or_page(pages.counter, TEXT)
@document_response(Counter)
@media_types(TEXT)
@problems(400, 404, 503, 504)
async def counter(name: str) -> Response:
    """Reads the counter without counting."""
    found = await access.readable(name)
    return text(found.value) if prefers(TEXT) == TEXT else answer(found)


@blueprint.put("/<name>")
@document_request(NewCounter)
@document_response(Counter, 200)
@document_response(Counter, 201)
@problems(400, 401, 403, 404, 408, 409, 413, 415, 503, 504)
@security_scheme([{"bearer": []}])
async def make(name: str) -> Response:
    """Creates the counter, or changes the title and the options of an existing one."""
    await require_token("manage", name)
    new = await body(NewCounter)
    found, made = await commands.make(check_name(name), new)
    response = answer(found, HTTPStatus.CREATED if made else HTTPStatus.OK)
    if made:
        response.headers["Location"] = url_for("api.counter", name=name)
    return response


@blueprint.delete("/<name>")
@problems(400, 401, 403, 404, 503, 504)
@security_scheme([{"bearer": []}])
async def delete(name: str) -> Response:
    """Deletes the counter, its receipts and its history."""
    await require_token("manage", name)
    check_name(name)
    await read_body()
    if not await commands.delete_counter(name):
        raise NoSuchCounter
    return Response(status=HTTPStatus.NO_CONTENT)


@blueprint.get("/<name>/history")
@document_querystring(HistoryQuery)
@document_response(History)
@problems(400, 404, 503, 504)
async def history(name: str) -> Response:
    """Hits per hour or day (UTC). Hours and days without hits are left out; the range is rounded to whole hours."""
    check_name(name)
    asked = query(HistoryQuery)
    start, end = span(asked, timedelta(hours=24))
    hits = await queries.hits_of(await access.readable_id(name), asked.by, start, end)
    return answer(History(name, asked.by, start, end, hits))


@blueprint.get("/<name>/receipts/<receipt>")
@document_response(ReceiptRead)
@problems(400, 404, 503, 504)
async def receipt(name: str, receipt: str) -> Response:
    """The numbers that a receipt accounts for."""
    if _RECEIPT.fullmatch(receipt) is None:
        raise MalformedParameter("A receipt has 32 hexadecimal digits, 0-9 and a-f.")
    found = await queries.receipt_of(await access.readable_id(name), name, bytes.fromhex(receipt))
    if found is None:
        raise NoSuchReceipt
    return answer(found)
