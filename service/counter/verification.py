"""The audit: whether history and receipts account for each number of a counter exactly once (G3)."""

from collections.abc import AsyncIterator
from typing import NamedTuple

from sqlalchemy import bindparam, func, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.counter.tables import IN_ORDER, counter, history, receipt

CHUNK = 10_000
"""Rows that are held in memory at a time."""

COUNTERS = (
    select(counter.c.id, counter.c.name).where(counter.c.id > bindparam("after")).order_by(counter.c.id).limit(CHUNK)
)
COUNTER = select(counter.c.start, counter.c.count.label("total")).where(counter.c.id == bindparam("counter_id"))
ROLLED_UP = select(func.coalesce(func.sum(history.c.hits), 0)).where(history.c.counter_id == bindparam("counter_id"))
RECEIPTS = (
    select(receipt.c.first, receipt.c.last, receipt.c.key, receipt.c.created_at)
    .with_hint(receipt, IN_ORDER)
    .where(
        receipt.c.counter_id == bindparam("counter_id"),
        receipt.c.first >= bindparam("after"),
        receipt.c.key != bindparam("last_key"),
    )
    .order_by(receipt.c.first)
    .limit(CHUNK)
)


class Verdict(NamedTuple):
    """The verdict on a counter; `finding` is None if nothing is wrong. `receipts` is how many were read."""

    name: str
    total: int
    receipts: int
    finding: str | None


async def verify(engine: AsyncEngine) -> AsyncIterator[Verdict]:
    """Yields a verdict on each counter; the service may count meanwhile. Holds one chunk of rows at a time.

    Each counter is read in one snapshot (REPEATABLE READ), so that a concurrent transaction is seen whole or not at
    all; nothing is locked. Raises SQLAlchemy's DBAPIError.
    """
    after = 0
    while True:
        async with engine.connect() as connection:
            counters = (await connection.execute(COUNTERS, {"after": after})).all()
        for counter_id, name in counters:
            async with engine.connect() as plain:
                connection = await plain.execution_options(isolation_level="REPEATABLE READ")
                verdict = await _look_at(connection, counter_id, name)
            if verdict is not None:
                yield verdict
        if len(counters) < CHUNK:
            return
        after = counters[-1].id


async def _look_at(connection: AsyncConnection, counter_id: int, name: str) -> Verdict | None:
    """Returns None where the counter was deleted meanwhile."""
    row = (await connection.execute(COUNTER, {"counter_id": counter_id})).one_or_none()
    if row is None:
        return None
    rolled_up = int((await connection.execute(ROLLED_UP, {"counter_id": counter_id})).scalar_one())
    last, read = row.start + rolled_up, 0
    position = {"after": 0, "last_key": b""}
    while chunk := (await connection.execute(RECEIPTS, {"counter_id": counter_id, **position})).all():
        for one in chunk:
            if one.first != last + 1 or one.last < one.first:
                what = "overlap" if one.first <= last else "gap"
                found = f"{what}: after {last} comes a receipt of {one.first} to {one.last}"
                return Verdict(name, row.total, read, found)
            last = one.last
        read += len(chunk)
        position = {"after": chunk[-1].first, "last_key": chunk[-1].key}
    finding = None if last == row.total else f"the count is {row.total} and its receipts end with {last}"
    return Verdict(name, row.total, read, finding)
