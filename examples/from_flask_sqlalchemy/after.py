"""The application of before.py on the platform, on the same tables: what docs/from-flask-sqlalchemy.md ends with."""

import asyncio
import json
import os
import urllib.request
from http import HTTPStatus
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from quart import Blueprint, Response
from sqlalchemy import Column, ForeignKey, Integer, String, Table, bindparam, insert, select
from sqlalchemy.dialects import mysql

from service import platform
from service.platform.app import App
from service.platform.database import TABLE_OPTIONS, metadata, transaction
from service.platform.problems import Problem
from service.platform.request_data import MalformedBody, answer, body, query
from service.platform.settings import load_settings

author = Table(
    "author",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String(100), nullable=False, unique=True),
    **TABLE_OPTIONS,
)
book = Table(
    "book",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("title", String(200), nullable=False),
    Column("author_id", ForeignKey(author.c.id), nullable=False),
    **TABLE_OPTIONS,
)


class NewBook(msgspec.Struct):
    """A book to be added."""

    title: str = ""
    author: str = ""


class PageQuery(msgspec.Struct):
    """Which page is asked for."""

    page: Annotated[int, Meta(ge=1)] = 1


class NoSuchBook(Problem):
    """No book has this number."""

    def __init__(self) -> None:
        super().__init__(HTTPStatus.NOT_FOUND, "no-such-book", "There is no book of this number.")


WITH_AUTHOR = select(book.c.id, book.c.title, author.c.name.label("author")).join(author)
BOOK = WITH_AUTHOR.where(book.c.id == bindparam("number"))
PAGE = WITH_AUTHOR.order_by(book.c.id).limit(20).offset(bindparam("before"))
NEW_AUTHOR = mysql.insert(author).prefix_with("IGNORE")
AUTHOR_ID = select(author.c.id).where(author.c.name == bindparam("name"))

blueprint = Blueprint("books", __name__)


@blueprint.get("/books")
async def books() -> Response:
    page = query(PageQuery).page
    async with transaction() as connection:
        rows = (await connection.execute(PAGE, {"before": 20 * (page - 1)})).mappings().all()
    return answer({"books": [dict(row) for row in rows]})


@blueprint.post("/books")
async def add() -> Response:
    given = await body(NewBook)
    if not given.title or not given.author:
        raise MalformedBody("it needs a `title` and an `author`")
    async with transaction() as connection:
        await connection.execute(NEW_AUTHOR, {"name": given.author})
        author_id = (await connection.execute(AUTHOR_ID, {"name": given.author})).scalar_one()
        added = await connection.execute(insert(book), {"title": given.title, "author_id": author_id})
        (row,) = (await connection.execute(BOOK, {"number": added.lastrowid})).mappings()
    return answer(dict(row), HTTPStatus.CREATED)


@blueprint.get("/books/<int:number>")
async def one(number: int) -> Response:
    return answer(await find(number))


@blueprint.get("/books/<int:number>/price")
async def price(number: int) -> Response:
    title = (await find(number))["title"]
    return answer({"title": title, "price": await asyncio.to_thread(price_of, number)})


async def find(number: int) -> dict[str, Any]:
    async with transaction() as connection:
        row = (await connection.execute(BOOK, {"number": number})).mappings().one_or_none()
    if row is None:
        raise NoSuchBook
    return dict(row)


def price_of(number: int) -> float:
    with urllib.request.urlopen(f"{os.environ['PRICES_URL']}/{number}") as found:  # a thread waits
        return float(json.load(found)["price"])


def create_app() -> App:
    app = App(load_settings())
    platform.register(app)
    app.register_blueprint(blueprint)
    return app
