"""What `quart status` says of the counters."""

import asyncio

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from service.platform.status import Line

SECONDS = 2.0
"""How long hits are observed."""

_SUM = text("SELECT COUNT(*), COALESCE(SUM(count - start), 0), UTC_TIMESTAMP(6) FROM counter")


async def hits(connection: AsyncConnection) -> list[Line]:
    """Returns how many hits there are, and how many a second for SECONDS."""
    _, before, begun = (await connection.execute(_SUM)).one()
    await connection.rollback()
    await asyncio.sleep(SECONDS)
    counters, after, ended = (await connection.execute(_SUM)).one()
    rate = int(after - before) / (ended - begun).total_seconds()
    return [Line("hits", f"{after:,} of {counters:,} counters, {rate:,.0f} a second at the moment")]
