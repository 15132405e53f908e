"""The roll-up: receipts older than the retention are added to `history`, by hour, and deleted.

History's sum and the kept receipts account for 1..N at every moment: each transaction adds and deletes the same range
of numbers, lowest number first. It can be stopped and started at any time, and runs beside the service.
"""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Executable, bindparam, delete, exc, select, text
from sqlalchemy.dialects.mysql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random

from service.counter.commands import DELETE_HISTORY, DELETE_RECEIPTS
from service.counter.tables import IN_ORDER, counter, history, receipt
from service.platform.database import error_code
from service.platform.mysql_errors import ER_LOCK_DEADLOCK, ER_LOCK_WAIT_TIMEOUT

CHUNK = 1_000
"""Rows that are read at a time, and receipts of one transaction at the most."""

COUNTERS = (
    select(counter.c.id, counter.c.name).where(counter.c.id > bindparam("after")).order_by(counter.c.id).limit(CHUNK)
)
# A lock's name has 64 characters at the most, and is the server's, not the database's. MySQL 9.7 has no MD5.
LOCK = text("SELECT GET_LOCK(CONCAT('roll-up:', LEFT(SHA2(CONCAT(DATABASE(), ' ', :counter_id), 256), 40)), 0)")
_TIMES = text("SELECT UTC_TIMESTAMP(6), UTC_TIMESTAMP(6) - INTERVAL :retention SECOND")
OLDEST = (
    select(receipt.c.first, receipt.c.last, receipt.c.created_at)
    .with_hint(receipt, IN_ORDER)
    .where(receipt.c.counter_id == bindparam("counter_id"))
    .order_by(receipt.c.first)
    .limit(CHUNK + 1)
)
NEXT_IN_TIME = (
    select(receipt.c.created_at)
    .with_hint(receipt, IN_ORDER)
    .where(
        receipt.c.counter_id == bindparam("counter_id"),
        receipt.c.first > bindparam("after"),
        receipt.c.created_at <= bindparam("now"),
    )
    .order_by(receipt.c.first)
    .limit(1)
)
_ADD = insert(history)
_ADD = _ADD.on_duplicate_key_update(hits=history.c.hits + _ADD.inserted.hits)
OWNERS, OWNERS_OF_HISTORY = (
    select(table.c.counter_id)
    .where(table.c.counter_id > bindparam("after"))
    .distinct()
    .order_by(table.c.counter_id)
    .limit(CHUNK)
    for table in (receipt, history)
)
_THERE = select(counter.c.id).where(counter.c.id.in_(bindparam("owners", expanding=True)))
DELETE = delete(receipt).where(
    receipt.c.counter_id == bindparam("counter_id"), receipt.c.first.between(bindparam("low"), bindparam("high"))
)


class RolledUp(NamedTuple):
    """How many receipts of a counter were rolled up; None if another roll-up holds the counter."""

    name: str
    receipts: int | None


async def roll_up(engine: AsyncEngine, retention: int) -> AsyncIterator[RolledUp]:
    """Rolls up, counter after counter, the receipts older than `retention` seconds. Raises SQLAlchemy's DBAPIError."""
    after = 0
    while True:
        async with engine.connect() as connection:
            counters = (await connection.execute(COUNTERS, {"after": after})).all()
        for counter_id, name in counters:
            # A connection for each: the lock ends with it.
            async with engine.connect() as connection:
                if (await connection.execute(LOCK, {"counter_id": counter_id})).scalar() != 1:
                    yield RolledUp(name, None)
                    continue
                yield RolledUp(name, await _roll_up_counter(connection, counter_id, retention))
        if len(counters) < CHUNK:
            return
        after = counters[-1].id


async def delete_left_over(engine: AsyncEngine) -> int:
    """Deletes the receipts and the history of deleted counters; returns the number of rows.

    Raises SQLAlchemy's DBAPIError.
    """
    total = 0
    async with engine.connect() as connection:
        for owners_of, delete_of in (OWNERS, DELETE_RECEIPTS), (OWNERS_OF_HISTORY, DELETE_HISTORY):
            after = 0
            # Ids are not used again, and a counter is there before its receipts: whose receipts are read first and is
            # then not there has been deleted.
            while owners := (await connection.execute(owners_of, {"after": after})).scalars().all():
                there = set((await connection.execute(_THERE, {"owners": owners})).scalars())
                for owner in set(owners) - there:
                    total += await _delete_of(connection, delete_of, owner)
                after = owners[-1]
    return total


async def _delete_of(connection: AsyncConnection, statement: Executable, counter_id: int) -> int:
    total = 0
    while True:
        deleted = await connection.execute(statement, {"counter_id": counter_id})
        await connection.commit()
        if deleted.rowcount == 0:
            return total
        total += deleted.rowcount


async def _roll_up_counter(connection: AsyncConnection, counter_id: int, retention: int) -> int:
    total = 0
    while True:
        async for attempt in AsyncRetrying(
            retry=retry_if_exception(_passes), stop=stop_after_attempt(5), wait=wait_random(0, 1), reraise=True
        ):
            with attempt:
                await connection.rollback()
                done = await _roll_up_chunk(connection, counter_id, retention)
        if not done:
            return total
        total += done


def _passes(error: BaseException) -> bool:
    return isinstance(error, exc.DBAPIError) and error_code(error) in {
        ER_LOCK_DEADLOCK,
        ER_LOCK_WAIT_TIMEOUT,
    }


async def _roll_up_chunk(connection: AsyncConnection, counter_id: int, retention: int) -> int:
    """Rolls up one chunk in a transaction; returns its number of receipts, 0 if none is due."""
    this = {"counter_id": counter_id}
    now, cutoff = (await connection.execute(_TIMES, {"retention": retention})).one()
    chunk = (await connection.execute(OLDEST, this)).all()
    newest_is_here = len(chunk) <= CHUNK
    chunk = chunk[:-1]  # either the newest of all, which says when the last hit was, or one too many
    due = number_due([row.created_at for row in chunk], now, cutoff)
    if due == 0 and chunk and not newest_is_here and all(row.created_at > now for row in chunk):
        following = (await connection.execute(NEXT_IN_TIME, {**this, "after": chunk[-1].first, "now": now})).scalar()
        due = len(chunk) if following is not None and following < cutoff else 0
    if due == 0:
        await connection.rollback()
        return 0
    rows: list[Any] = list(chunk[:due])
    hits: dict[datetime, int] = {}
    for row in rows:
        hour = row.created_at.replace(minute=0, second=0, microsecond=0)
        hits[hour] = hits.get(hour, 0) + row.last - row.first + 1
    await connection.execute(
        _ADD, [{"counter_id": counter_id, "hour": hour, "hits": number} for hour, number in hits.items()]
    )
    deleted = await connection.execute(DELETE, {**this, "low": rows[0].first, "high": rows[-1].first})
    if deleted.rowcount != due:
        await connection.rollback()
        if not (await connection.execute(_THERE, {"owners": [counter_id]})).all():
            return 0  # it was deleted meanwhile
        raise RuntimeError(
            f"{due} receipts from {rows[0].first} on were read, and {deleted.rowcount} deleted: not done"
        )
    await connection.commit()
    return due


def number_due(times: Sequence[datetime], now: datetime, cutoff: datetime) -> int:
    """Returns how many receipts are due, counted from the one with the lowest number.

    A receipt is due when it and all before it are older than `cutoff`. One from the future was written while the clock
    was ahead: it is ignored, and is due with the next one that is. One that is older than its predecessors was written
    after the clock was set back: it is due when they are.
    """
    due = 0
    for i, time in enumerate(times):
        if time > now:
            continue
        if time >= cutoff:
            break
        due = i + 1
    return due
