"""The bodies, queries and answers of the API, as msgspec reads and writes them and as /openapi.json shows them.

pydantic 2.14 took 6.7 times (6.0 to 7.0) as long for a hit's body and answer when it was measured.
"""

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from service.counter.tables import LARGEST

LARGEST_AMOUNT = 1_000_000
LARGEST_PAGE = 100

Start = Annotated[int, Meta(ge=0, le=LARGEST)]
Title = Annotated[str, Meta(max_length=200)]
ImageHits = Annotated[int, Meta(ge=0, le=1_000_000)]
Views = Literal["loads", "visitors"]


class NewHit(msgspec.Struct, forbid_unknown_fields=True):
    """The amount to count."""

    amount: Annotated[int, Meta(ge=1, le=LARGEST_AMOUNT)] = 1


class NewCounter(msgspec.Struct, forbid_unknown_fields=True):
    """A counter to create or change. Omitted fields keep their values, or have those of a new one: null, 0, false.

    `image_hits`: how many loads of hit.svg may count in a minute; `views`: which of them do.
    """

    title: Title | UnsetType | None = UNSET
    start: Start | UnsetType = UNSET
    private: bool | UnsetType = UNSET
    image_hits: ImageHits | UnsetType = UNSET
    views: Views | UnsetType = UNSET


class Counted(msgspec.Struct):
    """The numbers `first` to `last` were given; `number` is the last. `receipt` is 32 hexadecimal digits."""

    counter: str
    number: int
    first: int
    last: int
    receipt: str


class Counter(msgspec.Struct):
    """A counter: `value` is its last number, `start` the one before its first."""

    name: str
    title: str | None
    value: int
    start: int
    created: datetime
    last_hit: datetime | None
    private: bool
    image_hits: int
    views: Views


class Page(msgspec.Struct):
    """Names ordered by character; `next` is the path of the next page."""

    counters: list[str]
    next: str | None


class ReceiptRead(msgspec.Struct):
    """The numbers that a receipt accounts for."""

    counter: str
    receipt: str
    first: int
    last: int
    created: datetime


class Bucket(msgspec.Struct):
    """The hits of an hour or a day (UTC) that begins at `time`."""

    time: datetime
    hits: int


class History(msgspec.Struct):
    """The hours or days with hits, oldest first. The first and the last day may be cut by `from` and `to`."""

    counter: str
    by: Literal["hour", "day"]
    from_: datetime = msgspec.field(name="from")
    to: datetime
    hits: list[Bucket]


class PageQuery(msgspec.Struct):
    """The query of GET /counters."""

    after: Annotated[str, Meta(description="The name after which the page begins.")] = ""
    limit: Annotated[int, Meta(ge=1, le=LARGEST_PAGE, description="1 to 100.")] = 20


_TIME = "RFC 3339, with `Z` or an offset (its + written %2B)."


class HistoryQuery(msgspec.Struct):
    """The query of a history."""

    from_: Annotated[datetime, Meta(tz=True, description=f"{_TIME} By default 24 hours before `to`.")] | UnsetType = (
        msgspec.field(name="from", default=UNSET)
    )
    to: Annotated[datetime, Meta(tz=True, description=f"{_TIME} By default now.")] | UnsetType = UNSET
    by: Annotated[Literal["hour", "day"], Meta(description="`hour` or `day`.")] = "hour"


class KeyHeader(msgspec.Struct):
    """The header that makes a hit safe to repeat."""

    key: Annotated[str, Meta(description="1 to 255 visible ASCII characters, in quotes or without.")] | UnsetType = (
        msgspec.field(name="Idempotency-Key", default=UNSET)
    )
