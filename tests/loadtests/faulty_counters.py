"""Counters that lie or are slow, each as an application for Hypercorn. The scenarios must find out."""

import asyncio
from itertools import count

from quart import Quart
from sqlalchemy import text

from service.platform import database, health, logs
from service.platform.app import App
from service.platform.database import transaction
from service.platform.settings import load_settings

READ = text("SELECT count FROM counter WHERE name = 'page'")
WRITE = text("UPDATE counter SET count = :count WHERE name = 'page'")


def page(number: int) -> str:
    return f"<h1>Counter: {number}</h1>"


def gives_twice() -> Quart:
    """Gives every number twice; needs no database."""
    logs.configure("INFO", json=True)
    app = Quart(__name__)
    hits = count()

    @app.get("/")
    async def hit() -> str:
        return page(1 + next(hits) // 2)

    return app


def answers_after_a_second() -> Quart:
    """Counts rightly, but takes a second for each answer; needs no database."""
    logs.configure("INFO", json=True)
    app = Quart(__name__)
    hits = count(1)

    @app.get("/")
    async def hit() -> str:
        number = next(hits)
        await asyncio.sleep(1)
        return page(number)

    return app


def breaks_promises() -> Quart:
    """Has an API that gives a key another number each time, reads what it had a while ago, and falls back once."""
    logs.configure("INFO", json=True)
    app = Quart(__name__)
    hits, given = count(1_000_000), [999_999]

    @app.put("/counters/<name>")
    async def make(name: str) -> dict[str, int]:
        return {"value": given[-1]}

    @app.get("/counters/<name>")
    async def read(name: str) -> dict[str, int]:
        return {"value": given[-1] // 2}

    @app.get("/counters/<name>/history")
    async def history(name: str) -> dict[str, int]:
        return {}

    @app.post("/counters/<name>/hits")
    async def hit(name: str) -> dict[str, int]:
        number = next(hits)
        given.append(number if number % 100 else number - 500_000)
        return {"number": given[-1]}

    return app


def refuses() -> Quart:
    """Answers the first hit and refuses all others."""
    logs.configure("INFO", json=True)
    app = Quart(__name__)
    hits = count(1)

    @app.get("/")
    async def hit() -> tuple[str, int]:
        return (page(number), 200) if (number := next(hits)) == 1 else ("", 503)

    return app


def says_nothing() -> Quart:
    """Takes every request and does not answer."""
    logs.configure("INFO", json=True)
    app = Quart(__name__)

    @app.get("/livez")
    async def livez() -> str:
        await asyncio.sleep(60)
        return ""

    return app


def reads_then_writes() -> App:
    """Reads the count and then writes it, with no lock between."""
    app = _app()

    @app.get("/")
    async def hit() -> str:
        async with transaction() as connection:
            number = (await connection.execute(READ)).scalar_one() + 1
        async with transaction() as connection:
            await connection.execute(WRITE, {"count": number})
        return page(number)

    return app


def answers_before_the_commit() -> App:
    """Counts in memory, and writes what it has told its clients a second later."""
    app = _app()
    told = 0

    @app.before_serving
    async def begin() -> None:
        nonlocal told
        async with app.app_context(), transaction() as connection:
            told = (await connection.execute(READ)).scalar_one()

    @app.get("/")
    async def hit() -> str:
        nonlocal told
        told += 1
        if told % 50 == 0:
            app.add_background_task(write)
        return page(told)

    async def write() -> None:
        await asyncio.sleep(1)
        async with transaction() as connection:
            await connection.execute(WRITE, {"count": told})

    return app


def _app() -> App:
    settings = load_settings()
    logs.configure(settings.log_level, json=True)
    app = App(settings)
    database.register(app)
    health.register(app)
    return app
