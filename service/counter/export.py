"""Exports: a counter's receipts and history, whole, as CSV or NDJSON, in a stream that holds one page at a time.

Each page is a statement of its own, which begins where the last one ended: no connection to the database is held while
the client reads, and nothing is read any longer when it has left.
"""

import logging
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from typing import Any

import msgspec
from quart import Blueprint, Response, request, stream_with_context

from service.counter import access, queries
from service.counter.errors import NoSuchCounter
from service.counter.names import check_name
from service.platform.database import OutcomeUnknown, Unavailable
from service.platform.openapi import media_types, problems
from service.platform.request_data import MalformedParameter

FORMS = {"csv": "text/csv", "ndjson": "application/x-ndjson"}

COLUMNS = {"receipts": ("receipt", "first", "last", "created"), "history": ("time", "hits")}

PAGE = 1_000
"""Receipts that are read at a time."""

SPAN = timedelta(days=31)
"""How much of the history is read at a time."""

Rows = list[tuple[Any, ...]]

log = logging.getLogger(__name__)
blueprint = Blueprint("export", __name__, url_prefix="/counters")


@blueprint.get("/<name>/receipts.<form>")
@media_types(*FORMS.values())
@problems(400, 401, 404, 503, 504)
async def receipts(name: str, form: str) -> Response:
    """All receipts that are not rolled up yet, by their numbers, as CSV or NDJSON (`form`)."""
    found = await _extent(name, form)

    async def pages() -> AsyncIterator[Rows]:
        after = 0
        while rows := await queries.receipts_after(found.id, after, found.last, PAGE):
            yield [(row.key.hex(), row.first, row.last, queries.in_utc(row.created_at)) for row in rows]
            after = rows[-1].first

    return _stream(found, name, "receipts", form, pages())


@blueprint.get("/<name>/history.<form>")
@media_types(*FORMS.values())
@problems(400, 401, 404, 503, 504)
async def history(name: str, form: str) -> Response:
    """The hits of each hour (UTC) that has any, since the counter's first, as CSV or NDJSON (`form`)."""
    found = await _extent(name, form)

    async def pages() -> AsyncIterator[Rows]:
        start, newest = found.oldest, found.newest
        while start is not None and newest is not None and start <= newest:
            hits = await queries.hits_of(found.id, "hour", start, start + SPAN)
            if hits:
                yield [(one.time, one.hits) for one in hits]
            start += SPAN

    return _stream(found, name, "history", form, pages())


async def _extent(name: str, form: str) -> queries.Extent:
    check_name(name)
    if form not in FORMS:
        raise MalformedParameter("An export is .csv or .ndjson.")
    return await access.allowed(name, await queries.extent(name))


def _stream(found: queries.Extent, name: str, what: str, form: str, pages: AsyncIterator[Rows]) -> Response:
    columns = COLUMNS[what]

    @stream_with_context
    async def body() -> AsyncIterator[bytes]:
        if form == "csv":
            yield (",".join(columns) + "\r\n").encode()
        encode: Callable[[Rows], bytes] = _csv if form == "csv" else _ndjson_of(columns)
        if request.method == "HEAD":
            return
        try:
            async for rows in pages:
                await _check_again(found, name)
                yield encode(rows)
            await _check_again(found, name)
        except (Unavailable, OutcomeUnknown, NoSuchCounter) as error:
            why = "it was deleted, or may no longer be read" if isinstance(error, NoSuchCounter) else error
            log.warning("an export of %s ends before its end: %s", name, why)
            raise TimeoutError from error  # which has the connection closed, so that the client knows

    response = Response(body(), content_type=f"{FORMS[form]}; charset=utf-8")
    response.timeout = None  # nginx ends it where the client takes nothing for 30 s
    response.headers["Cache-Control"] = "no-store"
    response.headers["Content-Disposition"] = f'attachment; filename="{name}-{what}.{form}"'
    return response


async def _check_again(found: queries.Extent, name: str) -> None:
    """Raises NoSuchCounter where the counter was deleted since, or is no longer for the one who asks."""
    now = await access.allowed(name, await queries.find(name))
    if now.id != found.id:
        raise NoSuchCounter


def _csv(rows: Rows) -> bytes:
    """Returns the lines of RFC 4180. No value has a comma, a quote or a line break."""
    return b"".join(",".join(map(_plain, row)).encode() + b"\r\n" for row in rows)


def _plain(value: Any) -> str:
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else str(value)


def _ndjson_of(columns: tuple[str, ...]) -> Callable[[Rows], bytes]:
    encoder = msgspec.json.Encoder()
    return lambda rows: encoder.encode_lines([dict(zip(columns, row, strict=True)) for row in rows])
