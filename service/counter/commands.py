"""Creating, changing and deleting counters, each in one transaction."""

from typing import Any

from msgspec import UNSET, UnsetType
from sqlalchemy import bindparam, delete, select, text, update
from sqlalchemy.dialects.mysql import insert

from service.counter import queries
from service.counter.errors import CounterConflict, NoSuchCounter
from service.counter.models import Counter
from service.counter.tables import counter, history
from service.platform.database import transaction

RECEIPTS_AT_ONCE = 10_000
"""Receipts deleted together with their counter; the roll-up deletes the rest."""

_MAKE = insert(counter).prefix_with("IGNORE")
LOCK = select(counter.c.id, counter.c.start).where(counter.c.name == bindparam("name")).with_for_update()
_RENAME = update(counter).where(counter.c.id == bindparam("counter_id")).values(title=bindparam("new_title"))
DELETE = delete(counter).where(counter.c.id == bindparam("counter_id"))
DELETE_HISTORY = delete(history).where(history.c.counter_id == bindparam("counter_id"))
DELETE_RECEIPTS = text(f"DELETE FROM receipt WHERE counter_id = :counter_id LIMIT {RECEIPTS_AT_ONCE:d}")  # noqa: S608


async def make(name: str, title: str | UnsetType | None, start: int | UnsetType) -> tuple[Counter, bool]:
    """Creates the counter, or sets the title of an existing one. Returns it, and whether it was created.

    It is read in the same transaction, so that an error means that nothing was changed. Raises NoSuchCounter if it was
    deleted meanwhile, CounterConflict if it exists with another start.
    """
    new: dict[str, Any] = {"name": name, "title": None if title is UNSET else title}
    new |= {"start": 0 if start is UNSET else start, "count": 0 if start is UNSET else start}
    if changed := await _change(name, title, start):
        return changed, False
    async with transaction() as connection:
        made = await connection.execute(_MAKE, new)
        if made.rowcount == 1 and (found := await queries.read_by(connection, name)):
            return found, True
    # Another has just made it. The failed INSERT left a shared lock, with which two deadlock: so a new transaction.
    if changed := await _change(name, title, start):
        return changed, False
    raise NoSuchCounter


async def _change(name: str, title: str | UnsetType | None, start: int | UnsetType) -> Counter | None:
    """Sets the title, if one is given. Returns the counter, None if there is none of this name."""
    async with transaction() as connection:
        there = (await connection.execute(LOCK, {"name": name})).one_or_none()
        if there is None:
            return None
        if start is not UNSET and there.start != start:
            raise CounterConflict(there.start)
        if title is not UNSET:
            await connection.execute(_RENAME, {"counter_id": there.id, "new_title": title})
        return await queries.read_by(connection, name)


async def delete_counter(name: str) -> bool:
    """Deletes the counter, its history and its receipts; returns whether there was one."""
    async with transaction() as connection:
        there = (await connection.execute(LOCK, {"name": name})).one_or_none()
        if there is None:
            return False
        for statement in DELETE, DELETE_HISTORY, DELETE_RECEIPTS:
            await connection.execute(statement, {"counter_id": there.id})
        return True
