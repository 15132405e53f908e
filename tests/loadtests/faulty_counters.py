"""Counters with faults that the scenarios must find, and one without, as applications for Hypercorn.

None needs a database: each is what its clients see of a service with that fault. Those of `in_memory` run in one
process and lose their state with it; the path chooses between them.
"""

import asyncio
import os
from collections.abc import Callable
from itertools import count
from pathlib import Path

from quart import Blueprint, Quart

from service.platform import logs

FAULTS: list[Callable[[], Blueprint]] = []


def fault(make: Callable[[], Blueprint]) -> Callable[[], Blueprint]:
    FAULTS.append(make)
    return make


def page(number: int) -> str:
    return f"<h1>Counter: {number}</h1>"


def in_memory() -> Quart:
    """Serves each counter of FAULTS under the path of its function's name."""
    logs.configure("INFO", json=True)
    app = Quart(__name__)
    for make in FAULTS:
        app.register_blueprint(make(), url_prefix=f"/{make.__name__}")
    return app


@fault
def no_fault() -> Blueprint:
    """Counts rightly, and tells its value without counting."""
    counter = Blueprint("no_fault", __name__)
    given = 0

    @counter.get("/")
    async def hit() -> str:
        nonlocal given
        given += 1
        return page(given)

    @counter.get("/value")
    async def value() -> str:
        return str(given)

    return counter


@fault
def gives_twice() -> Blueprint:
    """Gives every number twice."""
    counter = Blueprint("gives_twice", __name__)
    hits = count()

    @counter.get("/")
    async def hit() -> str:
        return page(1 + next(hits) // 2)

    return counter


@fault
def reads_then_writes() -> Blueprint:
    """Reads the count and then writes it, with no lock between."""
    counter = Blueprint("reads_then_writes", __name__)
    stored = 0

    @counter.get("/")
    async def hit() -> str:
        nonlocal stored
        number = stored + 1
        await asyncio.sleep(0.01)
        stored = number
        return page(number)

    return counter


@fault
def answers_after_a_second() -> Blueprint:
    """Counts rightly, but takes a second for each answer."""
    counter = Blueprint("answers_after_a_second", __name__)
    hits = count(1)

    @counter.get("/")
    async def hit() -> str:
        number = next(hits)
        await asyncio.sleep(1)
        return page(number)

    return counter


@fault
def breaks_promises() -> Blueprint:
    """Has an API that gives a key another number each time, reads what it had a while ago, and falls back at times."""
    counter = Blueprint("breaks_promises", __name__)
    hits, given = count(1_000_000), [999_999]

    @counter.put("/counters/<name>")
    async def make(name: str) -> dict[str, int]:
        return {"value": given[-1]}

    @counter.get("/counters/<name>")
    async def read(name: str) -> dict[str, int]:
        return {"value": given[-1] // 2}

    @counter.get("/counters/<name>/history")
    async def history(name: str) -> dict[str, int]:
        return {}

    @counter.post("/counters/<name>/hits")
    async def hit(name: str) -> dict[str, int]:
        number = next(hits)
        given.append(number if number % 100 else number - 500_000)
        return {"number": given[-1]}

    return counter


@fault
def refuses() -> Blueprint:
    """Answers the first hit and refuses all others."""
    counter = Blueprint("refuses", __name__)
    hits = count(1)

    @counter.get("/")
    async def hit() -> tuple[str, int]:
        return (page(number), 200) if (number := next(hits)) == 1 else ("", 503)

    return counter


@fault
def is_not_ready() -> Blueprint:
    """Refuses every request with its reason."""
    counter = Blueprint("is_not_ready", __name__)

    @counter.get("/")
    async def hit() -> tuple[str, int]:
        return "the database does not answer", 503

    return counter


@fault
def asks_for_a_token() -> Blueprint:
    """Refuses every request of the API that has no token."""
    counter = Blueprint("asks_for_a_token", __name__)

    @counter.put("/counters/<name>")
    async def make(name: str) -> tuple[str, int]:
        return "", 401

    return counter


@fault
def says_nothing() -> Blueprint:
    """Takes every request and does not answer, but tells how many it took."""
    counter = Blueprint("says_nothing", __name__)
    taken = 0

    @counter.get("/livez")
    async def livez() -> str:
        nonlocal taken
        taken += 1
        await asyncio.sleep(60)
        return ""

    @counter.get("/value")
    async def value() -> str:
        return str(taken)

    return counter


def answers_before_the_commit() -> Quart:
    """Counts in memory; every 50th number is written to the file COUNT_FILE, after a second."""
    logs.configure("INFO", json=True)
    app = Quart(__name__)
    file = Path(os.environ["COUNT_FILE"])
    given = int(file.read_text()) if file.exists() else 0

    @app.get("/")
    async def hit() -> str:
        nonlocal given
        given += 1
        if given % 50 == 0:
            app.add_background_task(write)
        return page(given)

    async def write() -> None:
        await asyncio.sleep(1)
        await asyncio.to_thread(file.write_text, str(given))

    return app
