"""Creating, changing and deleting counters, each in one transaction."""

from typing import Any

from msgspec import UNSET
from sqlalchemy import bindparam, delete, select, text, update
from sqlalchemy.dialects.mysql import insert

from service.counter import queries
from service.counter.errors import CounterConflict, NoSuchCounter
from service.counter.models import Counter, NewCounter
from service.counter.tables import counter, history
from service.platform.database import transaction

RECEIPTS_AT_ONCE = 10_000
"""Receipts deleted together with their counter; the roll-up deletes the rest."""

_MAKE = insert(counter).prefix_with("IGNORE")
LOCK = select(counter.c.id, counter.c.start).where(counter.c.name == bindparam("name")).with_for_update()
_CHANGE = update(counter).where(counter.c.id == bindparam("counter_id"))
DELETE = delete(counter).where(counter.c.id == bindparam("counter_id"))
DELETE_HISTORY = delete(history).where(history.c.counter_id == bindparam("counter_id"))
DELETE_RECEIPTS = text(f"DELETE FROM receipt WHERE counter_id = :counter_id LIMIT {RECEIPTS_AT_ONCE:d}")  # noqa: S608


async def make(name: str, new: NewCounter) -> tuple[Counter, bool]:
    """Creates the counter, or changes an existing one. Returns it, and whether it was created.

    It is read in the same transaction, so that an error means that nothing was changed. Raises NoSuchCounter if it was
    deleted meanwhile, CounterConflict if it exists with another start.
    """
    if changed := await _change(name, new):
        return changed, False
    start = 0 if new.start is UNSET else new.start
    async with transaction() as connection:
        made = await connection.execute(_MAKE, {"name": name, "start": start, "count": start, **_given(new)})
        if made.rowcount == 1 and (found := await queries.read_by(connection, name)):
            return found, True
    # Another has just made it. The failed INSERT left a shared lock, with which two deadlock: so a new transaction.
    if changed := await _change(name, new):
        return changed, False
    raise NoSuchCounter


async def _change(name: str, new: NewCounter) -> Counter | None:
    """Sets what is given. Returns the counter, None if there is none of this name."""
    async with transaction() as connection:
        there = (await connection.execute(LOCK, {"name": name})).one_or_none()
        if there is None:
            return None
        if new.start is not UNSET and there.start != new.start:
            raise CounterConflict(there.start)
        if given := _given(new):
            await connection.execute(_CHANGE.values(given), {"counter_id": there.id})
        return await queries.read_by(connection, name)


def _given(new: NewCounter) -> dict[str, Any]:
    """Returns the columns that can be changed, and are to be."""
    columns = {
        "title": new.title,
        "is_private": new.private,
        "image_hits": new.image_hits,
        "once_a_day": new.views if new.views is UNSET else new.views == "visitors",
    }
    return {column: value for column, value in columns.items() if value is not UNSET}


async def delete_counter(name: str) -> bool:
    """Deletes the counter, its history and its receipts; returns whether there was one."""
    async with transaction() as connection:
        there = (await connection.execute(LOCK, {"name": name})).one_or_none()
        if there is None:
            return False
        for statement in DELETE, DELETE_HISTORY, DELETE_RECEIPTS:
            await connection.execute(statement, {"counter_id": there.id})
        return True
