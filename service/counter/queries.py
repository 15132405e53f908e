"""Reading counters, receipts and history: one statement each, so that each sees one moment of the database.

Times are the database's, in UTC, with their zone.
"""

from datetime import UTC, datetime
from typing import Literal

from sqlalchemy import bindparam, func, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from service.counter.models import Bucket, Counter, ReceiptRead
from service.counter.tables import IN_ORDER, counter, history, receipt
from service.platform.database import transaction

_LAST_HIT = (
    select(receipt.c.created_at)
    .with_hint(receipt, IN_ORDER)
    .where(receipt.c.counter_id == counter.c.id)
    .order_by(receipt.c.first.desc())
    .limit(1)
    .scalar_subquery()
)
COUNTER = select(
    counter.c.name, counter.c.title, counter.c.count, counter.c.start, counter.c.created_at, _LAST_HIT.label("last_hit")
).where(counter.c.name == bindparam("name"))
NAMES = (
    select(counter.c.name).where(counter.c.name > bindparam("after")).order_by(counter.c.name).limit(bindparam("limit"))
)
RECEIPT = (
    select(receipt.c.first, receipt.c.last, receipt.c.created_at)
    .join(counter, counter.c.id == receipt.c.counter_id)
    .where(receipt.c.key == bindparam("key"), counter.c.name == bindparam("name"))
)
ID = select(counter.c.id).where(counter.c.name == bindparam("name"))

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

_FORMS = {"hour": "%Y-%m-%dT%H:00:00+00:00", "day": "%Y-%m-%dT00:00:00+00:00"}


async def read(name: str) -> Counter | None:
    """Returns the counter, None if there is none of this name."""
    async with transaction() as connection:
        return await read_by(connection, name)


async def read_by(connection: AsyncConnection, name: str) -> Counter | None:
    """Returns the counter as this transaction sees it, None if there is none of this name."""
    row = (await connection.execute(COUNTER, {"name": name})).one_or_none()
    if row is None:
        return None
    last_hit = None if row.last_hit is None else _in_utc(row.last_hit)
    return Counter(row.name, row.title, row[2], row.start, _in_utc(row.created_at), last_hit)


async def names_after(after: str, limit: int) -> list[str]:
    """Returns up to `limit` names that follow `after`, ordered by character."""
    async with transaction() as connection:
        return list((await connection.execute(NAMES, {"after": after, "limit": limit})).scalars())


async def receipt_of(name: str, key: bytes) -> ReceiptRead | None:
    """Returns the counter's receipt with this key."""
    async with transaction() as connection:
        row = (await connection.execute(RECEIPT, {"key": key, "name": name})).one_or_none()
    return None if row is None else ReceiptRead(name, key.hex(), row.first, row.last, _in_utc(row.created_at))


async def hits_by(name: str, by: Literal["hour", "day"], start: datetime, end: datetime) -> list[Bucket] | None:
    """Returns the hours or days (UTC) of the span that have hits, oldest first; None if there is no such counter.

    `start` (included) and `end` (not) are whole hours.
    """
    span = {"start": start.astimezone(UTC).replace(tzinfo=None), "end": end.astimezone(UTC).replace(tzinfo=None)}
    async with transaction() as connection:
        counter_id = (await connection.execute(ID, {"name": name})).scalar_one_or_none()
        if counter_id is None:
            return None
        rows = (await connection.execute(HISTORY, {"counter_id": counter_id, "form": _FORMS[by], **span})).all()
    return [Bucket(datetime.fromisoformat(row.bucket), int(row.hits)) for row in rows]


def _in_utc(time: datetime) -> datetime:
    return time.replace(tzinfo=UTC)
