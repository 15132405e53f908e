"""The bodies, queries and answers of the API, as msgspec reads and writes them and as /openapi.json shows them."""

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

LARGEST_PAGE = 100


class NewNote(msgspec.Struct, forbid_unknown_fields=True):
    """A note to be written. NOTE_LENGTH is its longest."""

    text: Annotated[str, Meta(min_length=1)] | None = None


class Note(msgspec.Struct):
    """A note as it was written."""

    id: int
    text: str
    created: datetime


class Page(msgspec.Struct):
    """Notes in the order in which they were written; `next` is the path of the next page."""

    notes: list[Note]
    next: str | None


class PageQuery(msgspec.Struct):
    """What GET /notes is asked."""

    after: Annotated[int, Meta(ge=0, description="The number of the note after which the page begins.")] = 0
    limit: Annotated[int, Meta(ge=1, le=LARGEST_PAGE, description="1 to 100.")] = 20
