"""A small application in Flask's ways, with Flask-SQLAlchemy: what docs/from-flask-sqlalchemy.md begins with."""

import json
import os
import urllib.request

import quart_flask_patch  # noqa: F401  # before anything of Flask's
from flask_sqlalchemy import SQLAlchemy
from quart import Quart, abort, request
from sqlalchemy import URL, ForeignKey, String, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase):
    pass


app = Quart(__name__)
app.config["SQLALCHEMY_DATABASE_URI"] = URL.create(
    "mysql+pymysql",
    username=os.environ["DB_USERNAME"],
    password=os.environ["DB_PASSWORD"],
    host=os.environ["DB_HOST"],
    port=int(os.environ["DB_PORT"]),
    database=os.environ["DATABASE_NAME"],
)
db = SQLAlchemy(app, model_class=Base)


class Author(db.Model):
    __tablename__ = "author"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)


class Book(db.Model):
    __tablename__ = "book"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str] = mapped_column(String(200))
    author_id: Mapped[int] = mapped_column(ForeignKey("author.id"))
    author: Mapped[Author] = relationship()


def as_dict(book):
    return {"id": book.id, "title": book.title, "author": book.author.name}


@app.get("/books")
async def books():
    page = db.paginate(select(Book).order_by(Book.id), page=request.args.get("page", 1, int), per_page=20)
    return {"books": [as_dict(book) for book in page.items]}


@app.post("/books")
async def add():
    given = await request.get_json()
    if not given.get("title") or not given.get("author"):
        abort(400)
    author = db.session.execute(select(Author).filter_by(name=given["author"])).scalar_one_or_none()
    book = Book(title=given["title"], author=author or Author(name=given["author"]))
    db.session.add(book)
    db.session.commit()
    return as_dict(book), 201


@app.get("/books/<int:number>")
async def book(number):
    return as_dict(db.get_or_404(Book, number))


@app.get("/books/<int:number>/price")
async def price(number):
    title = db.get_or_404(Book, number).title
    with urllib.request.urlopen(f"{os.environ['PRICES_URL']}/{number}") as answer:  # the worker waits
        return {"title": title, "price": json.load(answer)["price"]}


@app.get("/readyz")
async def readyz():
    db.session.execute(select(1))
    return "ready"
