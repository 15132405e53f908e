"""Reading counters, receipts and history: one statement each, so that each sees one moment of the database.

Times are the database's, in UTC, with their zone.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

from sqlalchemy import Executable, Row, bindparam, false, func, select, true, union, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from service.counter.models import Bucket, Counter, ReceiptRead
from service.counter.tables import IN_ORDER, counter, history, receipt
from service.platform.database import transaction

NAMES_AT_ONCE = 1_000
"""Names in one query for their values."""

_LAST_HIT = (
    select(receipt.c.created_at)
    .with_hint(receipt, IN_ORDER)
    .where(receipt.c.counter_id == counter.c.id)
    .order_by(receipt.c.first.desc())
    .limit(1)
    .scalar_subquery()
)
COUNTER = select(
    counter.c.id,
    counter.c.name,
    counter.c.title,
    counter.c.count.label("value"),
    counter.c.start,
    counter.c.created_at,
    _LAST_HIT.label("last_hit"),
    counter.c.is_private,
    counter.c.image_hits,
    counter.c.once_a_day,
).where(counter.c.name == bindparam("name"))
NAMES = (
    select(counter.c.name).where(counter.c.name > bindparam("after")).order_by(counter.c.name).limit(bindparam("limit"))
)
RECEIPT = select(receipt.c.first, receipt.c.last, receipt.c.created_at).where(
    receipt.c.key == bindparam("key"), receipt.c.counter_id == bindparam("counter_id")
)
RECEIPTS = (
    select(receipt.c.key, receipt.c.first, receipt.c.last, receipt.c.created_at)
    .with_hint(receipt, IN_ORDER)
    .where(
        receipt.c.counter_id == bindparam("counter_id"),
        receipt.c.first > bindparam("after"),
        receipt.c.first <= bindparam("until"),
    )
    .order_by(receipt.c.first)
    .limit(bindparam("limit"))
)


def _end_of(time: Any, owner: Any, order: Any) -> Any:
    return select(time).where(owner == counter.c.id).order_by(order).limit(1).scalar_subquery()


EXTENT = select(
    counter.c.id,
    counter.c.is_private,
    counter.c.count.label("last"),
    *(
        _end_of(time, owner, order).label(f"{end}_{name}")
        for name, time, owner in (
            ("receipt", receipt.c.created_at, receipt.c.counter_id),
            ("hour", history.c.hour, history.c.counter_id),
        )
        for end, order in (("oldest", time), ("newest", time.desc()))
    ),
).where(counter.c.name == bindparam("name"))
VALUES = select(counter.c.id, counter.c.name, counter.c.count.label("value"), counter.c.is_private).where(
    counter.c.name.in_(bindparam("names", expanding=True))
)
ID = select(counter.c.id, counter.c.is_private).where(counter.c.name == bindparam("name"))

# One statement, since a roll-up moves hits from the one table to the other meanwhile.
_ALL_HITS = union_all(
    select(receipt.c.created_at.label("time"), (receipt.c.last - receipt.c.first + 1).label("hits")).where(
        receipt.c.counter_id == bindparam("counter_id"),
        receipt.c.created_at >= bindparam("start"),
        receipt.c.created_at < bindparam("end"),
    ),
    select(history.c.hour, history.c.hits).where(
        history.c.counter_id == bindparam("counter_id"),
        history.c.hour >= bindparam("start"),
        history.c.hour < bindparam("end"),
    ),
).subquery("every")
_TIME = func.date_format(_ALL_HITS.c.time, bindparam("form")).label("bucket")
HISTORY = select(_TIME, func.sum(_ALL_HITS.c.hits).label("hits")).group_by("bucket").order_by("bucket")

By = Literal["hour", "day"]


class Extent(NamedTuple):
    """How far a counter's receipts and history reach at this moment: `oldest` and `newest` are their hours, if any.

    By what is there, and not by the clock, which may have been ahead.
    """

    id: int
    is_private: bool
    last: int
    oldest: datetime | None
    newest: datetime | None


_FORMS = {"hour": "%Y-%m-%dT%H:00:00+00:00", "day": "%Y-%m-%dT00:00:00+00:00"}


async def read(name: str) -> Counter | None:
    """Returns the counter, None if there is none of this name."""
    async with transaction() as connection:
        return await read_by(connection, name)


async def read_by(connection: AsyncConnection, name: str) -> Counter | None:
    """Returns the counter as this transaction sees it, None if there is none of this name."""
    found = await _read(connection, name)
    return None if found is None else found[1]


async def read_with_id(name: str) -> tuple[int, Counter] | None:
    """Returns the counter's id and the counter, None if there is none of this name."""
    async with transaction() as connection:
        return await _read(connection, name)


async def _read(connection: AsyncConnection, name: str) -> tuple[int, Counter] | None:
    row = (await connection.execute(COUNTER, {"name": name})).one_or_none()
    if row is None:
        return None
    last_hit = None if row.last_hit is None else in_utc(row.last_hit)
    return row.id, Counter(
        name=row.name,
        title=row.title,
        value=row.value,
        start=row.start,
        created=in_utc(row.created_at),
        last_hit=last_hit,
        private=row.is_private,
        image_hits=row.image_hits,
        views="visitors" if row.once_a_day else "loads",
    )


async def values_of(names: Iterable[str]) -> list[Row[int, str, int, bool]]:
    """Returns `id`, `name`, `value` and `is_private` of those that are there, by a query for each NAMES_AT_ONCE."""
    found: list[Row[int, str, int, bool]] = []
    left = list(names)
    async with transaction() as connection:
        while left:
            rows = await connection.execute(VALUES, {"names": left[:NAMES_AT_ONCE]})
            found += rows.all()
            del left[:NAMES_AT_ONCE]
    return found


async def find(name: str) -> Any:
    """Returns the counter's `id` and `is_private`, None if there is none of this name."""
    async with transaction() as connection:
        return (await connection.execute(ID, {"name": name})).one_or_none()


async def names_after(after: str, limit: int, private_prefixes: Sequence[str]) -> list[str]:
    """Returns up to `limit` names that follow `after`, ordered by character.

    Those of private counters only where they begin with one of the prefixes.
    """
    async with transaction() as connection:
        rows = await connection.execute(names(private_prefixes), {"after": after, "limit": limit})
        return list(rows.scalars())


def names(private_prefixes: Sequence[str]) -> Executable:
    """Returns the statement for the names of public counters, and of private ones that begin with one of the prefixes.

    Each of its parts reads no more than `limit` rows.
    """
    if "" in private_prefixes:
        return NAMES
    public = NAMES.where(counter.c.is_private == false())
    private = NAMES.where(counter.c.is_private == true())
    parts = [private.where(counter.c.name.startswith(prefix, autoescape=True)) for prefix in private_prefixes]
    return union(public, *parts).order_by("name").limit(bindparam("limit")) if parts else public


async def receipt_of(counter_id: int, name: str, key: bytes) -> ReceiptRead | None:
    """Returns the receipt with this key of the counter with this id and name."""
    async with transaction() as connection:
        row = (await connection.execute(RECEIPT, {"key": key, "counter_id": counter_id})).one_or_none()
    return None if row is None else ReceiptRead(name, key.hex(), row.first, row.last, in_utc(row.created_at))


async def hits_of(counter_id: int, by: By, start: datetime, end: datetime) -> list[Bucket]:
    """Returns the counter's hours or days (UTC) of the span that have hits, oldest first.

    `start` (included) and `end` (not) are whole hours.
    """
    span = {"start": start.astimezone(UTC).replace(tzinfo=None), "end": end.astimezone(UTC).replace(tzinfo=None)}
    async with transaction() as connection:
        rows = (await connection.execute(HISTORY, {"counter_id": counter_id, "form": _FORMS[by], **span})).all()
    return [Bucket(datetime.fromisoformat(row.bucket), int(row.hits)) for row in rows]


async def extent(name: str) -> Extent | None:
    """Returns how far the counter reaches, None if there is none of this name."""
    async with transaction() as connection:
        row = (await connection.execute(EXTENT, {"name": name})).one_or_none()
    if row is None:
        return None
    times = (row.oldest_receipt, row.oldest_hour, row.newest_receipt, row.newest_hour)
    hours = [in_utc(time).replace(minute=0, second=0, microsecond=0) for time in times if time is not None]
    return Extent(row.id, row.is_private, row.last, min(hours, default=None), max(hours, default=None))


async def receipts_after(counter_id: int, after: int, until: int, limit: int) -> list[Any]:
    """Returns up to `limit` receipts whose first number is above `after` and at most `until`, in order."""
    these = {"counter_id": counter_id, "after": after, "until": until, "limit": limit}
    async with transaction() as connection:
        return list((await connection.execute(RECEIPTS, these)).all())


def in_utc(time: datetime) -> datetime:
    """Returns the database's time with its zone."""
    return time.replace(tzinfo=UTC)
