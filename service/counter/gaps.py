"""Receipts for numbers that have none: those that a version without receipts gave, while it ran beside this one."""

from typing import Any

import uuid_utils
from sqlalchemy import bindparam, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from service.counter.roll_up import LOCK
from service.counter.tables import counter, receipt
from service.counter.verification import COUNTER, RECEIPTS, ROLLED_UP

_ID = select(counter.c.id).where(counter.c.name == bindparam("name"))
_NOW = select(func.utc_timestamp(6))
_ADD = insert(receipt)


class NotFilled(Exception):
    """The gaps cannot be filled now, or at all; the text says why, and nothing was changed."""


async def fill_gaps(engine: AsyncEngine, name: str) -> int:
    """Gives the numbers of a counter that have no receipt one, in one transaction; returns how many they were.

    The service may count meanwhile: numbers that have been given are not given again, so what is a gap stays one. A
    receipt gets the time of the one after it, which is when its numbers had been given. Raises NotFilled, and
    SQLAlchemy's DBAPIError.
    """
    async with engine.connect() as plain:
        # One snapshot, so that a concurrent hit is seen whole or not at all.
        connection = await plain.execution_options(isolation_level="REPEATABLE READ")
        counter_id = (await connection.execute(_ID, {"name": name})).scalar()
        if counter_id is None:
            raise NotFilled(f"There is no counter {name!r}.")
        await connection.commit()  # the snapshot begins with the lock
        if (await connection.execute(LOCK, {"counter_id": counter_id})).scalar() != 1:
            raise NotFilled("A roll-up is at work on it: run this again when that has ended.")
        filled = await _fill(connection, counter_id)
        await connection.commit()
    return filled


async def _fill(connection: AsyncConnection, counter_id: int) -> int:
    this = {"counter_id": counter_id}
    row = (await connection.execute(COUNTER, this)).one()
    last = row.start + int((await connection.execute(ROLLED_UP, this)).scalar_one())
    position: dict[str, Any] = {"after": 0, "last_key": b""}
    filled = 0
    while chunk := (await connection.execute(RECEIPTS, {**this, **position})).all():
        gaps = []
        for one in chunk:
            if one.first <= last:
                raise NotFilled(f"A receipt of {one.first} to {one.last} overlaps what is before it: see `verify`.")
            if one.first > last + 1:
                gaps.append(_receipt(counter_id, last + 1, one.first - 1, one.created_at))
            last = one.last
        filled += await _add(connection, gaps)
        position = {"after": chunk[-1].first, "last_key": chunk[-1].key}
    if last < row.total:
        now = (await connection.execute(_NOW)).scalar_one()
        filled += await _add(connection, [_receipt(counter_id, last + 1, row.total, now)])
    return filled


def _receipt(counter_id: int, first: int, last: int, created_at: Any) -> dict[str, Any]:
    key = uuid_utils.uuid7().bytes
    return {"key": key, "counter_id": counter_id, "first": first, "last": last, "created_at": created_at}


async def _add(connection: AsyncConnection, receipts: list[dict[str, Any]]) -> int:
    """Inserts the receipts; returns how many numbers they have."""
    if receipts:
        await connection.execute(_ADD, receipts)
    return sum(one["last"] - one["first"] + 1 for one in receipts)
