"""The counter in FastAPI: uvicorn with uvloop and httptools, SQLAlchemy on asyncmy, a transaction a request.

Tuned: two connections a worker, since all want the same row and more only wait for it in the database (four: 0.9 of
the rate at 256 connections); Core's connection instead of an AsyncSession by Depends, as many write it (0.83); no
access log, Server or Date, as with Hypercorn here.
"""

import os

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, PlainTextResponse
from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import create_async_engine

SLOW_DATABASE = float(os.environ.get("SLOW_DATABASE", "0"))
ADD_ONE = text("UPDATE counter SET count = LAST_INSERT_ID(count + 1) WHERE name = 'page'")
SLEEP = text("SELECT SLEEP(:seconds)")

engine = create_async_engine(
    URL.create(
        "mysql+asyncmy",
        username=os.environ["DB_USERNAME"],
        password=os.environ["DB_PASSWORD"],
        host=os.environ["DB_HOST"],
        port=int(os.environ["DB_PORT"]),
        database=os.environ["DATABASE_NAME"],
    ),
    isolation_level="READ COMMITTED",
    pool_size=int(os.environ["POOL_SIZE"]),
    max_overflow=0,
    pool_reset_on_return=None,  # spares a ROLLBACK after each COMMIT
)
app = FastAPI()


@app.get("/", response_class=HTMLResponse)
async def hit() -> HTMLResponse:
    async with engine.begin() as connection:
        if SLOW_DATABASE:
            await connection.execute(SLEEP, {"seconds": SLOW_DATABASE})
        number = (await connection.execute(ADD_ONE)).lastrowid
    return HTMLResponse(f"<h1>Counter: {number}</h1>", headers={"Cache-Control": "no-store"})


@app.get("/readyz", response_class=PlainTextResponse)
async def readyz() -> PlainTextResponse:
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))
    return PlainTextResponse("ready")
