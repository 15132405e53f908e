"""docs/from-flask-sqlalchemy.md: the application answers the same before and after, and the document quotes it."""

import http.server
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest
from sqlalchemy import create_engine

from examples.from_flask_sqlalchemy import after
from harness.databases import Database
from harness.environments import Stack, serving
from service.platform.database import metadata
from service.platform.settings import ROOT
from tests.conftest import Start

EXAMPLES = ROOT / "examples/from_flask_sqlalchemy"

BEFORE = Stack(
    name="flask_patch",
    command=(
        *("hypercorn", "--config", "hypercorn.toml", "--workers", "{workers}"),
        *("--bind", "127.0.0.1:{port}", "examples.from_flask_sqlalchemy.before:app"),
    ),
    pool_size=1,
)


class Prices(http.server.BaseHTTPRequestHandler):
    """The other service, which is asked for prices."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"price": 12.5}')

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def prices() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Prices) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(params=["before", "after"])
def client(
    request: pytest.FixtureRequest, database: Database, environment: dict[str, str], prices: str, start: Start
) -> Iterator[httpx.Client]:
    """A client of either version, on a database with its tables."""
    log = request.getfixturevalue("tmp_path") / "log"
    server = database.server
    url = f"mysql+pymysql://{server.username}:{server.password}@{server.host}:{server.port}/{database.name}"
    metadata.create_all(create_engine(url), [after.author, after.book])
    with ExitStack() as stack:
        if request.param == "before":
            own = {**environment, "PRICES_URL": prices}
            address = stack.enter_context(serving(BEFORE, own, workers=1, log=log))
        else:
            address = start(app="examples.from_flask_sqlalchemy.after:create_app()", PRICES_URL=prices).url
        yield stack.enter_context(httpx.Client(base_url=address))


@pytest.mark.any_database
def test_both_versions_answer_the_same(client: httpx.Client) -> None:
    assert client.get("/books").json() == {"books": []}
    titles = ["Emma", "Persuasion", *(f"Letters {number}" for number in range(20))]
    added = [client.post("/books", json={"title": title, "author": "Jane Austen"}) for title in titles]
    assert [one.status_code for one in added] == [201] * 22
    first = added[0].json()
    assert first == {"id": first["id"], "title": "Emma", "author": "Jane Austen"}
    assert client.get(f"/books/{first['id']}").json() == first
    assert [book["title"] for book in client.get("/books").json()["books"]] == titles[:20]
    assert [book["title"] for book in client.get("/books?page=2").json()["books"]] == titles[20:]
    assert client.get(f"/books/{first['id']}/price").json() == {"title": "Emma", "price": 12.5}
    assert client.get("/books/999999").status_code == 404
    assert client.post("/books", json={"title": "", "author": "x"}).status_code == 400


def test_the_document_quotes_the_code_of_both() -> None:
    quoted = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/from-flask-sqlalchemy.md").read_text(), re.M | re.S)
    code = "".join((EXAMPLES / name).read_text() for name in ("before.py", "after.py"))
    assert len(quoted) > 8
    assert [passage for passage in quoted if passage not in code] == []
