"""What `quart status` says of the counters."""

import asyncio
import re

import pytest

from harness.databases import Database
from service.counter.status import hits
from service.platform.database import create_engine
from tests.conftest import MakeApp

pytestmark = pytest.mark.any_database


async def test_hits_are_said_with_how_many_there_are_a_second(
    database: Database, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(hits.__globals__, "SECONDS", 0.2)
    engine = create_engine(make_app().settings.database)
    try:
        async with engine.connect() as connection:
            (line,) = await hits(connection)
            ((count,),) = database.execute("SELECT SUM(count - start) FROM counter")
            assert line.text == f"{count} of 1 counters, 0 a second at the moment"
            looking = asyncio.create_task(hits(connection))
            while not looking.done():
                await asyncio.to_thread(database.execute, "UPDATE counter SET count = count + 1000")
    finally:
        await engine.dispose()
    (line,) = await looking
    found = re.fullmatch(r"([\d,]+) of 1 counters, ([\d,]+) a second at the moment", line.text)
    assert found, line
    assert "0" not in found.groups()
