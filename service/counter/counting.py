"""Counting: one hit is one transaction, whose one UPDATE adds to the row and says what it became.

Nothing is read first and written then, so that no two hits can get the same number, in whichever worker they are.
"""

from sqlalchemy import func, update
from sqlalchemy.dialects.mysql import insert

from service.counter.tables import counter
from service.database import transaction

COUNTER_ID = 1

# LAST_INSERT_ID(expr) makes the new value the statement's lastrowid, so no second statement has to read it:
# https://dev.mysql.com/doc/refman/9.7/en/information-functions.html#function_last-insert-id
_ADD_ONE = update(counter).where(counter.c.id == COUNTER_ID).values(count=func.last_insert_id(counter.c.count + 1))
_CREATE = insert(counter).values(id=COUNTER_ID, count=0).prefix_with("IGNORE")


async def count_hit() -> int:
    """Counts one hit and returns its number, which is durable by then. Raises Unavailable or OutcomeUnknown."""
    number = await _add_one()
    if number is None:
        # The row is made at 0 and committed before anyone counts on it, so that many first hits at once do no harm.
        async with transaction() as connection:
            await connection.execute(_CREATE)
        number = await _add_one()
    assert number is not None, "the counter's row was deleted while it was being made"
    return number


async def _add_one() -> int | None:
    """Returns the hit's number, None if there is no row: lastrowid would then be what an earlier statement left."""
    async with transaction() as connection:
        result = await connection.execute(_ADD_ONE)
        return result.lastrowid if result.rowcount == 1 else None
