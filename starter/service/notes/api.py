"""The routes. Errors are Problem Details with the types of docs/notes.md; times are RFC 3339, in UTC."""

import re
from datetime import UTC
from http import HTTPStatus
from typing import Any

from quart import Blueprint, Response, current_app, url_for
from quart_schema import document_querystring, document_request, document_response, security_scheme
from sqlalchemy import Row, bindparam, insert, select

from service.notes import metrics
from service.notes.errors import NoSuchNote, NoteTooLong
from service.notes.models import NewNote, Note, Page, PageQuery
from service.notes.settings import NotesSettings
from service.notes.tables import notes
from service.platform.database import transaction
from service.platform.openapi import API, problems
from service.platform.request_data import MalformedBody, answer, body, query
from service.platform.tokens import require_token

DESCRIBED = API(
    title="Tally",
    version="0.1.0",
    blueprints=("notes",),
    path_parameters={"note": {"type": "string", "pattern": "^[0-9]{1,18}$"}},
    errors="See docs/notes.md.",
)

WRITE = insert(notes)
READ = select(notes).where(notes.c.id == bindparam("number"))
PAGE = select(notes).where(notes.c.id > bindparam("after")).order_by(notes.c.id).limit(bindparam("count"))

blueprint = Blueprint("notes", __name__, url_prefix="/notes")


@blueprint.post("")
@document_request(NewNote)
@document_response(Note, 201)
@problems(400, 401, 403, 408, 413, 415, 422, 503, 504)
@security_scheme([{"bearer": []}])
async def write() -> Response:
    """Writes a note."""
    await require_token("write")
    new = await body(NewNote)
    if new.text is None:
        raise MalformedBody("it needs a `text`")
    settings: NotesSettings = current_app.extensions["notes"]
    if len(new.text) > settings.note_length:
        raise NoteTooLong(settings.note_length)
    async with transaction() as connection:
        written = await connection.execute(WRITE, {"text": new.text})
        (row,) = await connection.execute(READ, {"number": written.lastrowid})
    metrics.WRITTEN.inc()
    response = answer(_note(row), HTTPStatus.CREATED)
    response.headers["Location"] = url_for("notes.read", note=row.id)
    return response


@blueprint.get("")
@document_querystring(PageQuery)
@document_response(Page)
@problems(400, 503, 504)
async def page() -> Response:
    """The notes, by pages."""
    asked = query(PageQuery)
    async with transaction() as connection:
        rows = (await connection.execute(PAGE, {"after": asked.after, "count": asked.limit + 1})).all()
    found = [_note(row) for row in rows[: asked.limit]]
    more = url_for("notes.page", after=found[-1].id, limit=asked.limit) if len(rows) > asked.limit else None
    return answer(Page(found, more))


@blueprint.get("/<note>")
@document_response(Note)
@problems(404, 503, 504)
async def read(note: str) -> Response:
    """Reads a note."""
    if re.fullmatch(r"[0-9]{1,18}", note) is None:
        raise NoSuchNote
    async with transaction() as connection:
        row = (await connection.execute(READ, {"number": int(note)})).one_or_none()
    if row is None:
        raise NoSuchNote
    return answer(_note(row))


def _note(row: Row[Any]) -> Note:
    return Note(row.id, row.text, row.created_at.replace(tzinfo=UTC))
