"""The counters' API, on one service for the whole file."""

import asyncio
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from harness.databases import Database, DatabaseServer, new_database
from harness.processes import Hypercorn, hypercorn, is_ready, ready_hypercorn, wait_until
from service.counter.batch import receipt_key
from tests.conftest import SECRET_KEY, MakeTables
from tests.counter.audit import audit

pytestmark = pytest.mark.any_database

LARGEST = 2**53 - 1
JSON = "application/json"


@pytest.fixture(scope="module")
def books(server: DatabaseServer, make_tables: MakeTables) -> Iterator[Database]:
    with new_database(server) as database:
        make_tables(database)
        yield database


@pytest.fixture(scope="module")
def service(
    books: Database, plain_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Hypercorn]:
    log = tmp_path_factory.mktemp("api") / "log"
    own = {"SECRET_KEY": SECRET_KEY, "API_TOKENS_REQUIRED": "false"}
    with ready_hypercorn({**plain_environment, **books.environment, **own}, log) as service:
        yield service
    assert [line for line in log.read_text().splitlines() if "Traceback" in line] == []


@pytest.fixture
def client(service: Hypercorn) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, headers={"Accept": "application/json"}, timeout=30) as client:
        yield client


@pytest.fixture
def name() -> str:
    return f"c-{uuid.uuid4().hex}"


def problem(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    assert answer.json()["status"] == answer.status_code
    return answer.status_code, answer.json()["type"].removeprefix("/problems/")


def test_a_counter_is_made_counted_read_and_deleted(client: httpx.Client, books: Database, name: str) -> None:
    made = client.put(f"/counters/{name}", json={"title": "Café 🧮", "start": 100})
    assert (made.status_code, made.headers["location"]) == (201, f"/counters/{name}")
    assert client.put(f"/counters/{name}", json={"title": "Another", "start": 100}).status_code == 200
    one = client.post(f"/counters/{name}/hits").json()
    assert (one["counter"], one["number"], one["first"], one["last"]) == (name, 101, 101, 101)
    many = client.post(f"/counters/{name}/hits", json={"amount": 1_000_000}).json()
    assert (many["first"], many["last"]) == (102, 1_000_101)
    read = client.get(f"/counters/{name}").json()
    assert (read["title"], read["start"], read["value"]) == ("Another", 100, 1_000_101)
    assert read["created"].endswith("Z")
    receipt = client.get(f"/counters/{name}/receipts/{many['receipt']}").json()
    assert (receipt["first"], receipt["last"], receipt["created"]) == (102, 1_000_101, read["last_hit"])
    assert audit(books, name) == 1_000_101
    assert client.delete(f"/counters/{name}").status_code == 204
    for answer in client.get(f"/counters/{name}"), client.post(f"/counters/{name}/hits"):
        assert problem(answer) == (404, "no-such-counter")
    assert not books.execute("SELECT * FROM receipt WHERE first = 101")
    client.put(f"/counters/{name}")
    assert [client.post(f"/counters/{name}/hits").json()["number"] for _ in range(8)] == list(range(1, 9))


def test_twenty_who_make_a_counter_at_once_make_it_once(client: httpx.Client, name: str) -> None:
    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(lambda _: client.put(f"/counters/{name}").status_code, range(20)))
    assert sorted(answers) == [200] * 19 + [201]
    assert problem(client.put(f"/counters/{name}", json={"start": 5})) == (409, "counter-conflict")


def test_a_key_gives_its_numbers_again_and_none_for_another_amount(client: httpx.Client, name: str) -> None:
    client.put(f"/counters/{name}")
    key = {"Idempotency-Key": '"k-1"'}
    first = client.post(f"/counters/{name}/hits", json={"amount": 3}, headers=key)
    other = client.post(f"/counters/{name}/hits")
    replayed = client.post(f"/counters/{name}/hits", json={"amount": 3}, headers=key)
    assert replayed.json() == first.json()
    assert replayed.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in {**first.headers, **other.headers}
    again = client.post(f"/counters/{name}/hits", headers=key)
    assert problem(again) == (422, "idempotency-key-reused")
    assert client.get(f"/counters/{name}").json()["value"] == 4


def test_a_script_that_asks_for_text_gets_the_number_alone(client: httpx.Client, name: str) -> None:
    client.put(f"/counters/{name}", json={"start": LARGEST - 1})
    plain = {"Accept": "text/plain"}
    for answer in client.post(f"/counters/{name}/hits", headers=plain), client.get(f"/counters/{name}", headers=plain):
        assert (answer.text, answer.headers["content-type"]) == (f"{LARGEST}\n", "text/plain; charset=utf-8")
        assert answer.headers["cache-control"] == "no-store"
    assert problem(client.get("/counters/none", headers=plain)) == (404, "no-such-counter")
    assert client.get(f"/counters/{name}", headers=[(b"Accept", b"text/\xff;q=\xe9, */*")]).json()["name"] == name


async def test_a_hit_that_has_no_room_does_no_harm_to_those_beside_it(service: Hypercorn, name: str) -> None:
    async with httpx.AsyncClient(base_url=service.url, headers={"Accept": "application/json"}) as client:
        await client.put(f"/counters/{name}", json={"start": LARGEST - 30})
        amounts = [1] * 20 + [1_000_000] + [1] * 10
        answers = await asyncio.gather(
            *(client.post(f"/counters/{name}/hits", json={"amount": amount}) for amount in amounts)
        )
        assert [answer.status_code for answer in answers] == [200] * 20 + [409] + [200] * 10
        assert problem(await client.post(f"/counters/{name}/hits")) == (409, "counter-full")
        assert (await client.get(f"/counters/{name}")).json()["value"] == LARGEST


def test_counters_are_listed_by_pages(client: httpx.Client) -> None:
    prefix = f"list-{uuid.uuid4().hex}"
    for i in range(5):
        client.put(f"/counters/{prefix}-{i}")
    page = f"/counters?after={prefix}&limit=2"
    seen: list[str] = []
    while page and len(seen) < 5:
        answer = client.get(page).json()
        seen += answer["counters"]
        page = answer["next"]
    assert seen[:5] == [f"{prefix}-{i}" for i in range(5)]


@pytest.mark.parametrize("bad", ["Upper", "-dash", ".dot", "a" * 64, "caf%C3%A9", "a%20b", "%F0%9F%A7%AE", "a%00b"])
def test_a_malformed_name_is_refused_everywhere(client: httpx.Client, bad: str) -> None:
    for method, path in ("POST", "/hits"), ("GET", ""), ("PUT", ""), ("DELETE", ""), ("GET", f"/receipts/{'0' * 32}"):
        assert problem(client.request(method, f"/counters/{bad}{path}")) == (400, "malformed-name")


@pytest.mark.parametrize(
    ("body", "media_type", "status"),
    [
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b'{"amount": 0}', "application/json", 400),
        (b'{"amount": -1}', "application/json", 400),
        (b'{"amount": 1000001}', "application/json", 400),
        (b'{"amount": 1.5}', "application/json", 400),
        (b'{"amount": "1"}', "application/json", 400),
        (b'{"amount": true}', "application/json", 400),
        (b'{"amount": 1e400}', "application/json", 400),
        (b'{"amuont": 1}', "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b"[" * 30_000, "application/json", 400),
        (b"amount=1", "application/x-www-form-urlencoded", 415),
        (b"x" * 70_000, "application/json", 413),
    ],
)
def test_a_malformed_body_is_refused_and_not_counted(
    client: httpx.Client, name: str, body: bytes, media_type: str, status: int
) -> None:
    client.put(f"/counters/{name}")
    answer = client.post(f"/counters/{name}/hits", content=body, headers={"Content-Type": media_type})
    assert problem(answer)[0] == status
    assert client.get(f"/counters/{name}").json()["value"] == 0


@pytest.mark.parametrize("amount", ["2", "2.0", "2e0", "0.2e1", "2.000000000000000000"])
def test_an_amount_is_any_number_that_json_schema_takes_for_an_integer(
    client: httpx.Client, name: str, amount: str
) -> None:
    client.put(f"/counters/{name}")
    body = f'{{"amount": {amount}}}'
    answer = client.post(f"/counters/{name}/hits", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["last"]) == (200, 2)


@pytest.mark.parametrize(
    "path",
    ["?limit=0", "?limit=101", "?limit=x", "?limit=", "?after=%27", "/a/receipts/xyz", f"/a/receipts/{'A' * 32}"],
)
def test_malformed_parameters_are_refused(client: httpx.Client, path: str) -> None:
    assert problem(client.get(f"/counters{path}"))[0] == 400


def test_a_receipt_that_is_not_there_is_said(client: httpx.Client, name: str) -> None:
    client.put(f"/counters/{name}")
    assert problem(client.get(f"/counters/{name}/receipts/{'0' * 32}")) == (404, "no-such-receipt")


def test_a_put_leaves_what_it_does_not_name(client: httpx.Client, name: str) -> None:
    client.put(f"/counters/{name}", json={"title": "Old", "start": 7})
    same = client.put(f"/counters/{name}")
    assert (same.status_code, same.json()["title"], same.json()["start"]) == (200, "Old", 7)
    assert client.put(f"/counters/{name}", json={"title": None}).json()["title"] is None
    assert problem(client.put(f"/counters/{name}", json={"start": 0})) == (409, "counter-conflict")


@pytest.mark.parametrize(
    "body",
    [
        b'{"start": -1}',
        b'{"start": 9007199254740992}',
        b'{"start": null}',
        b'{"start": "1"}',
        b'{"private": 1}',
        b'{"private": null}',
        b'{"image_hits": -1}',
        b'{"image_hits": 1000001}',
        b'{"image_hits": true}',
        b'{"views": "once"}',
        b'{"views": null}',
        b'{"title": 1}',
        b'{"titel": "x"}',
        b'{"title": "' + b"x" * 201 + b'"}',
        b'{"title": "\\ud800"}',
        b'{"title": "\xed\xa0\x80"}',
        b"null",
    ],
)
def test_a_counter_that_cannot_be_is_not_made(client: httpx.Client, name: str, body: bytes) -> None:
    answer = client.put(f"/counters/{name}", content=body, headers={"Content-Type": "application/json"})
    assert problem(answer) == (400, "malformed-body")
    assert client.get(f"/counters/{name}").status_code == 404


@pytest.mark.parametrize(
    "title", ["", "\x00", "\u202e", "🧮" * 200, "'; DROP TABLE counter; --", "%s%(of)s:of", "\ufdd0"]
)
def test_a_hostile_title_comes_back_as_it_was(client: httpx.Client, name: str, title: str) -> None:
    assert client.put(f"/counters/{name}", json={"title": title}).status_code == 201
    assert client.get(f"/counters/{name}").json()["title"] == title


@pytest.mark.parametrize("key", [b"", b'""', b'"open', b"two words", b"a,b", b"x" * 256, b"caf\xe9", b"a\x7f"])
def test_a_malformed_key_is_refused_and_not_counted(client: httpx.Client, name: str, key: bytes) -> None:
    client.put(f"/counters/{name}")
    answer = client.post(f"/counters/{name}/hits", headers=[(b"Idempotency-Key", key)])
    assert problem(answer) == (400, "malformed-key")
    two = client.post(f"/counters/{name}/hits", headers=[("Idempotency-Key", "a"), ("Idempotency-Key", "a")])
    assert problem(two) == (400, "malformed-key")
    assert client.get(f"/counters/{name}").json()["value"] == 0


def test_a_deleted_counter_is_gone_in_every_worker_with_its_receipts(
    client: httpx.Client, books: Database, name: str
) -> None:
    def hit(_: int) -> int:
        return httpx.post(f"{client.base_url}/counters/{name}/hits").status_code

    def hit_with_the_key_that_is_left(_: int) -> int:
        url = f"{client.base_url}/counters/{name}/hits"
        return httpx.post(url, headers={"Idempotency-Key": "left"}).status_code

    client.put(f"/counters/{name}")
    ((counter_id,),) = books.execute("SELECT id FROM counter WHERE name = %s", name)
    with ThreadPoolExecutor(16) as threads:
        assert set(threads.map(hit, range(64))) == {200}  # each worker has the id now
    rest = books.execute("SELECT COUNT(*) FROM receipt WHERE counter_id = %s", counter_id)[0][0]
    rows = ",".join(f"(x'{counter_id:016x}{i:016x}', {counter_id}, {i}, {i}, NOW())" for i in range(100, 10_150))
    books.execute(f"INSERT INTO receipt VALUES {rows}")
    left_key = receipt_key(counter_id, "left")
    books.execute("INSERT INTO receipt VALUES (%s, %s, 99999, 99999, NOW())", left_key, counter_id)
    books.execute("INSERT INTO history VALUES (%s, '2026-01-01', 5)", counter_id)
    assert client.delete(f"/counters/{name}").status_code == 204
    with ThreadPoolExecutor(16) as threads:
        assert set(threads.map(hit_with_the_key_that_is_left, range(64))) == {404}
        assert set(threads.map(hit, range(64))) == {404}
    left = books.execute("SELECT COUNT(*) FROM receipt WHERE counter_id = %s", counter_id)[0][0]
    assert left == rest + 10_051 - 10_000
    assert not books.execute("SELECT * FROM history WHERE counter_id = %s", counter_id)
    assert problem(client.delete(f"/counters/{name}")) == (404, "no-such-counter")


def test_a_key_from_a_hundred_clients_on_two_servers_is_counted_once(
    service: Hypercorn, books: Database, plain_environment: dict[str, str], tmp_path: Path, name: str
) -> None:
    own = {"SECRET_KEY": SECRET_KEY, "API_TOKENS_REQUIRED": "false"}
    with hypercorn({**plain_environment, **books.environment, **own}, tmp_path / "log") as another:
        wait_until(lambda: is_ready(another), log=tmp_path / "log")
        urls = [f"{server.url}/counters/{name}/hits" for server in (service, another)]
        httpx.put(urls[0].removesuffix("/hits"))

        def hit(i: int) -> tuple[int, int]:
            key = {"Idempotency-Key": "same" if i % 3 else '"same"'}
            answer = httpx.post(urls[i % 2], json={"amount": 5}, headers=key, timeout=30)
            return answer.status_code, answer.json()["number"]

        with ThreadPoolExecutor(100) as threads:
            assert set(threads.map(hit, range(100))) == {(200, 5)}
        for url in urls:
            again = httpx.post(url, json={"amount": 6}, headers={"Idempotency-Key": "same", "Accept": JSON})
            assert problem(again) == (422, "idempotency-key-reused")
    assert audit(books, name) == 5
