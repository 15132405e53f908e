"""Images that count, publishable tokens, what counts as a view, and the bot filter."""

import http.server
import re
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, tzinfo
from functools import partial
from html import unescape
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from quart import Quart
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from harness.databases import Database
from harness.nginx import nginx
from harness.processes import Hypercorn, free_port, ready_hypercorn, wait_until
from service.counter import views
from service.counter.access import publishable
from service.counter.options import FRESH
from service.platform.settings import ROOT
from service.platform.token_file import line_of
from tests.conftest import SECRET_KEY, Start
from tests.counter.audit import audit
from tests.counter.browsers import LIMIT
from tests.counter.page import number_in
from tests.counter.test_api import LARGEST, books, problem
from tests.counter.test_docs_page import browser

__all__ = ["books", "browser"]

pytestmark = pytest.mark.any_database

BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
CRAWLER = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"
CAMO = "github-camo (9ef3a1)"


@pytest.fixture(scope="module")
def name() -> str:
    """The one counter of which there is a publishable token."""
    return f"c-{uuid.uuid4().hex}"


@pytest.fixture(scope="module")
def origin() -> str:
    """Of a page that is not the service's."""
    return f"http://127.0.0.1:{free_port()}"


@pytest.fixture(scope="module")
def service(
    books: Database, plain_environment: dict[str, str], name: str, origin: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Hypercorn]:
    log: Path = tmp_path_factory.mktemp("images") / "log"
    tokens = {"owner": ("manage", "count"), "published": (publishable(name),), "other": (publishable(name + "-2"),)}
    own = {
        "SECRET_KEY": SECRET_KEY,
        "API_TOKENS": ";".join(line_of(one, scopes, f"of-{one}") for one, scopes in tokens.items()),
        "CORS_ORIGINS": origin,
        "BOT_FILTER": "true",
        "COUNTERS_AUTO_CREATE": "true",
    }
    with ready_hypercorn({**plain_environment, **books.environment, **own}, log, workers=1) as service:
        yield service
    assert "Traceback" not in log.read_text()


@pytest.fixture
def client(service: Hypercorn) -> Iterator[httpx.Client]:
    headers = {"Accept": "application/json", "User-Agent": BROWSER}
    with httpx.Client(base_url=f"{service.url}/counters", headers=headers, timeout=30) as client:
        yield client


def make(client: httpx.Client, name: str = "", **options: object) -> str:
    """Makes a counter, of the test's own by default, and returns its path."""
    path = f"/{name or uuid.uuid4().hex}"
    assert client.put(path, json=options, headers=bearer("owner")).status_code == 201
    return path


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer of-{token}"}


def number_on(answer: httpx.Response) -> int:
    """Returns the number of a badge, with the name that `make` gives on the left."""
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/svg+xml; charset=utf-8"), answer.text
    found = re.search(r"<title>.*: (\d+)</title>", answer.text)
    assert found, answer.text
    return int(found[1])


def value(client: httpx.Client, path: str) -> int:
    return int(client.get(path).json()["value"])


def test_each_load_of_an_image_counts_one_and_is_never_cached(client: httpx.Client, books: Database) -> None:
    path = make(client, image_hits=1_000)
    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(lambda _: client.get(f"{path}/hit.svg?cacheSeconds=300"), range(100)))
    assert sorted(map(number_on, answers)) == list(range(1, 101))
    assert audit(books, path[1:]) == 100
    for answer in answers:
        assert answer.headers["cache-control"] == "no-cache, no-store, max-age=0"
        assert answer.headers["expires"] == "Thu, 01 Jan 1970 00:00:00 GMT"
        assert not {"etag", "last-modified"} & set(answer.headers)


def test_images_count_only_where_the_owner_allows_it_and_so_many_a_minute(
    client: httpx.Client, service: Hypercorn
) -> None:
    path = make(client)
    assert problem(client.get(f"{path}/hit.svg")) == (403, "images-do-not-count")
    assert client.head(f"{path}/hit.svg").status_code == 403
    none = httpx.get(f"{service.url}/counters/none/hit.svg", headers=client.headers)
    assert problem(none) == (404, "no-such-counter")
    limited = make(client, image_hits=3)
    answers = [client.get(f"{limited}/hit.svg") for _ in range(5)]
    assert [number_on(answer) for answer in answers[:3]] == [1, 2, 3]
    for answer in answers[3:]:
        assert problem(answer) == (429, "too-many-requests")
        assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert (value(client, path), value(client, limited)) == (0, 3)


def test_what_nobody_looks_at_does_not_count(client: httpx.Client) -> None:
    path = make(client, image_hits=100)
    assert number_on(client.get(f"{path}/hit.svg")) == 1
    assert client.head(f"{path}/hit.svg").status_code == 200
    for header in "Sec-Purpose", "Purpose":
        refused = client.get(f"{path}/hit.svg", headers={header: "prefetch;prerender"})
        assert problem(refused) == (403, "prefetch-refused")
    assert problem(client.get(f"{path}/hit.svg?color=none")) == (400, "malformed-parameter")
    assert value(client, path) == 1


def test_crawlers_do_not_count_where_they_are_left_out_and_proxies_for_people_do(
    client: httpx.Client, service: Hypercorn
) -> None:
    path = make(client, image_hits=100)
    for agent, number in (BROWSER, 1), (CRAWLER, 1), (CAMO, 2), ("x" * 7_000, 3), (CRAWLER, 3):
        answer = client.get(f"{path}/hit.svg", headers={"User-Agent": agent})
        assert number_on(answer) == number, agent
    assert client.get(f"{path}/hit.svg", headers=[(b"User-Agent", b"\xff\xfe")]).status_code == 200
    page = httpx.get(service.url, headers={"User-Agent": CRAWLER})
    assert (page.status_code, page.text) == (200, "")
    assert number_in(httpx.get(service.url, headers={"User-Agent": BROWSER}).text) == 1


def test_a_visitor_counts_once_a_day_where_the_owner_wants_that(client: httpx.Client, books: Database) -> None:
    path = make(client, image_hits=100, views="visitors")

    def seen_by(address: str, agent: str = BROWSER) -> httpx.Response:
        headers = [(b"X-Forwarded-For", address.encode("latin-1")), (b"User-Agent", agent.encode())]
        return client.get(f"{path}/hit.svg", headers=headers)

    visitors = [("192.0.2.1", BROWSER), ("192.0.2.2", BROWSER), ("192.0.2.1", CAMO), ("2001:db8::1", BROWSER)]
    for _ in range(2):
        assert [number_on(seen_by(*visitor)) for visitor in visitors] == [1, 2, 3, 4]
    again = seen_by("2001:db8::ffff")  # the same /64
    assert (number_on(again), again.headers["idempotent-replayed"]) == (4, "true")
    assert number_on(seen_by("2001:db8:0:1::1")) == 5
    assert number_on(seen_by("no address \xe9")) == 6
    # As a socket for IPv6 and IPv4 writes an IPv4 address: of no other, and the same as written otherwise.
    assert [number_on(seen_by(f"::ffff:192.0.2.{last}")) for last in (1, 2, 9)] == [1, 2, 7]
    other = make(client, image_hits=100, views="visitors")
    assert number_on(client.get(f"{other}/hit.svg", headers={"X-Forwarded-For": "192.0.2.1"})) == 1
    assert audit(books, path[1:]) == 7


async def test_a_visitor_has_another_key_the_next_day(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(datetime):
        present = datetime(2026, 11, 24, 23, 30, tzinfo=UTC)

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return cls.present.astimezone(tz)

    monkeypatch.setattr(views, "datetime", Clock)
    app = Quart(__name__)
    app.settings = SimpleNamespace(secret_key=SECRET_KEY)  # type: ignore[attr-defined]
    async with app.test_request_context("/", headers={"User-Agent": BROWSER}):
        keys = [views.visitor_key("visits") for _ in range(2)]
        Clock.present += timedelta(hours=1)
        assert len({*keys, views.visitor_key("visits")}) == 2
    assert keys[0] == keys[1]


def test_what_did_not_count_takes_none_of_a_minutes_images(client: httpx.Client, books: Database) -> None:
    path = make(client, image_hits=2, views="visitors")
    assert [number_on(client.get(f"{path}/hit.svg")) for _ in range(4)] == [1] * 4
    books.execute("UPDATE counter SET count = %s WHERE name = %s", LARGEST, path[1:])
    for _ in range(3):
        refused = client.get(f"{path}/hit.svg", headers={"User-Agent": "another"})
        assert problem(refused) == (409, "counter-full")


@pytest.mark.nginx
def test_nginx_passes_on_what_keeps_an_image_out_of_caches_and_who_asks(
    client: httpx.Client, service: Hypercorn, tmp_path: Path
) -> None:
    path = make(client, image_hits=100, views="visitors")
    with nginx(tmp_path, f"127.0.0.1:{service.port}") as proxy:
        seen = [
            proxy.get(f"/counters{path}/hit.svg", User_Agent=BROWSER, X_Forwarded_For=f"192.0.2.{i}") for i in (1, 2)
        ]
        cached = proxy.get(f"/counters{path}/badge.svg?cacheSeconds=60")
        raw = proxy.exchange(f"GET /counters{path}/hit.svg?label=\xe9 HTTP/1.0\r\n\r\n".encode("latin-1"))
    assert {answer.headers["cache-control"] for answer in seen} == {"no-cache, no-store, max-age=0"}
    assert {answer.headers["expires"] for answer in seen} == {"Thu, 01 Jan 1970 00:00:00 GMT"}
    assert ["idempotent-replayed" in answer.headers for answer in seen] == [
        False,
        True,
    ]  # one address, whatever it says
    assert (cached.status, cached.headers["cache-control"]) == (200, "public, max-age=60")
    assert raw.startswith(b"HTTP/1.1 400 ")
    assert value(client, path) == 1


def test_a_publishable_token_counts_one_on_its_counter_and_does_nothing_else(client: httpx.Client, name: str) -> None:
    path, other = make(client, name), make(client)
    key = {**bearer("published"), "Idempotency-Key": "k"}
    assert [client.post(f"{path}/hits", headers=key).json()["number"] for _ in range(2)] == [1, 1]
    assert client.post(f"{path}/hits", headers={**bearer("published"), "Accept": "text/plain"}).text == "2\n"
    for method, where, body in (
        ("POST", f"{path}/hits", {"amount": 2}),
        ("POST", f"{other}/hits", None),
        ("PUT", path, None),
        ("DELETE", path, None),
    ):
        assert problem(client.request(method, where, headers=bearer("published"), json=body)) == (403, "scope-missing")
    assert problem(client.post(f"{path}/hits", headers=bearer("other"))) == (403, "scope-missing")
    assert (value(client, path), value(client, other)) == (2, 0)
    client.put(path, json={"views": "visitors"}, headers=bearer("owner"))
    agent = {**bearer("published"), "User-Agent": "of a visitor"}
    wait_until(  # until the worker knows of the change
        lambda: len({client.post(f"{path}/hits", headers=agent).json()["number"] for _ in range(2)}) == 1,
        limit=4 * FRESH,
    )
    refused = client.post(f"{path}/hits", headers={**agent, "Idempotency-Key": "k"})
    assert problem(refused) == (422, "visitors-have-a-key")
    before = value(client, path)
    crawler = {**bearer("published"), "User-Agent": CRAWLER}
    assert problem(client.post(f"{path}/hits", headers=crawler)) == (403, "crawlers-do-not-count")
    assert client.post(f"{path}/hits", headers={**bearer("owner"), "User-Agent": CRAWLER}).status_code == 200
    assert value(client, path) == before + 1


def test_neither_a_publishable_token_nor_an_image_makes_a_deleted_counter_again(
    client: httpx.Client, name: str
) -> None:
    path = make(client, f"{name}-2", image_hits=100)
    assert client.post(f"{path}/hits", headers=bearer("other")).json()["number"] == 1
    assert number_on(client.get(f"{path}/hit.svg")) == 2
    client.delete(path, headers=bearer("owner"))
    assert problem(client.post(f"{path}/hits", headers=bearer("other"))) == (404, "no-such-counter")
    assert problem(client.get(f"{path}/hit.svg")) == (404, "no-such-counter")
    assert client.post(f"{path}/hits", headers=bearer("owner")).json()["number"] == 1  # who may count makes it


@pytest.mark.browser
def test_the_pages_snippet_counts_and_shows_the_number_on_a_page_of_an_allowed_origin(
    client: httpx.Client, name: str, origin: str, tmp_path: Path, browser: webdriver.Chrome
) -> None:
    client.put(f"/{name}", headers=bearer("owner"))
    before = value(client, f"/{name}")
    shown = client.get(f"/{name}", headers={"Accept": "text/html"}).text
    (snippet,) = re.findall("^<span id=.*</script>$", unescape("\n".join(re.findall("<code>(.*)</code>", shown))), re.M)
    documented = (ROOT / "docs/counter/badges.md").read_text().replace("visits", name)
    assert snippet in documented.replace("https://tally.example/counters", str(client.base_url).rstrip("/"))
    (tmp_path / "index.html").write_text("<!doctype html>" + snippet.replace("PUBLISHABLE", "of-published"))
    port = int(origin.rpartition(":")[2])
    pages = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", port), pages) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        # Chromium without a window says so, and is a crawler by that.
        browser.execute_cdp_cmd("Network.setUserAgentOverride", {"userAgent": BROWSER})
        browser.get(f"{origin}/index.html")
        WebDriverWait(browser, LIMIT).until(lambda page: page.find_element(By.ID, name).text == f"{before + 1}")
        browser.get(f"http://localhost:{port}/index.html")  # another origin: the browser asks first, and sends no hit
        WebDriverWait(browser, LIMIT).until(lambda page: page.get_log("browser"))  # type: ignore[no-untyped-call]
        server.shutdown()
    assert value(client, f"/{name}") == before + 1


def test_without_the_filter_crawlers_count(database: Database, start: Start) -> None:
    service = start()
    assert number_in(httpx.get(service.url, headers={"User-Agent": CRAWLER}).text) == 1
