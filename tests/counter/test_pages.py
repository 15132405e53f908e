"""The pages as they are without JavaScript, and who gets them instead of JSON."""

import re
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html import unescape

import httpx
import pytest

from harness.databases import Database
from harness.processes import Hypercorn
from service.platform.settings import ROOT
from tests.counter.test_api import books, client, name, problem, service
from tests.platform.test_requests import BROWSER

__all__ = ["books", "client", "name", "service"]

pytestmark = pytest.mark.any_database

SCREENS = {
    f"counter-{device}-{scheme}": (*size, scheme)
    for device, size in {"phone": (390, 844), "desktop": (1280, 800)}.items()
    for scheme in ("light", "dark")
}
"""How the pages are shown, each a screenshot of the README: width and height in pixels, and the colours."""

UNDER_LOAD = {
    "dashboard-desktop-light": (1280, 800, "light"),
    "dashboard-phone-dark": (390, 844, "dark"),
    "api-desktop-light": (1280, 800, "light"),
}
"""The README's other screenshots, which tests/deploy/test_compose_metrics.py takes."""

NOW = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)


@pytest.fixture
def browser(service: Hypercorn) -> Iterator[httpx.Client]:
    """Asks as browsers do."""
    with httpx.Client(base_url=service.url, headers=BROWSER, timeout=30) as browser:
        yield browser


def page(answered: httpx.Response, status: int = 200) -> str:
    assert (answered.status_code, answered.headers["content-type"]) == (status, "text/html; charset=utf-8")
    return answered.text


def made(client: httpx.Client, name: str, hits: int, title: str | None = None) -> str:
    """Makes a counter with so many hits, and returns its path."""
    client.put(f"/counters/{name}", json={"title": title}).raise_for_status()
    if hits:
        client.post(f"/counters/{name}/hits", json={"amount": hits}).raise_for_status()
    return f"/counters/{name}"


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "application/json"),
        ("", "application/json"),
        ("application/json", "application/json"),
        ("application/json, text/html", "application/json"),
        ("application/json, text/plain, */*", "application/json"),
        ("text/html;q=0.5, application/json", "application/json"),
        ("text/event-stream", "application/json"),
        ("text/html", "text/html; charset=utf-8"),
        (BROWSER["Accept"], "text/html; charset=utf-8"),
    ],
)
def test_who_prefers_html_gets_a_page_and_all_others_json(
    client: httpx.Client, name: str, accept: str, kind: str
) -> None:
    for path in made(client, name, 1), "/counters":
        answered = client.get(path, headers={"Accept": accept})
        assert (answered.status_code, answered.headers["content-type"]) == (200, kind)
        assert (answered.headers["vary"], answered.headers["cache-control"]) == ("Accept", "no-store")


@pytest.mark.parametrize("accept", ["text/plain, text/html;q=0.5", "text/*", "text/plain, text/html"])
def test_who_prefers_text_gets_it_of_a_counter(client: httpx.Client, name: str, accept: str) -> None:
    answered = client.get(made(client, name, 1), headers={"Accept": accept})
    assert (answered.headers["content-type"], answered.text) == ("text/plain; charset=utf-8", "1\n")


def test_the_front_page_is_what_it_was(browser: httpx.Client) -> None:
    assert re.fullmatch(r"<h1>Counter: \d+</h1>", page(browser.get("/")))


def test_a_page_has_the_count_the_chart_and_the_numbers_without_a_script(
    client: httpx.Client, browser: httpx.Client, books: Database, name: str
) -> None:
    path = made(client, name, 1_000_000, "Visitors")
    (counter_id,) = books.execute("SELECT id FROM counter WHERE name = %s", name)[0]
    books.execute("INSERT INTO history VALUES (%s, %s, 5)", counter_id, NOW - timedelta(hours=3))
    text = page(browser.get(path))
    assert "<h1>Visitors</h1>" in text
    assert 'value="1000000"' in text
    assert ">1,<wbr>000,<wbr>000</data>" in text
    bars = re.findall(r'height="(\d+)"><title>(.*): ([\d,]+)</title>', text)
    assert len(bars) in {24, 25}  # the hours that the last 24 touch
    highest = max(bars, key=lambda bar: int(bar[0]))
    assert (highest[0], highest[2]) == ("100", "1,000,000")
    assert [bar for bar in bars if bar[2] == "5"] == [("1", f"{NOW - timedelta(hours=3):%Y-%m-%d %H:%M}", "5")]
    assert re.search(r'role="img" aria-label="[^"]* 1000005 in all, 1000000 at the most, at [^"]*"', text)
    assert re.findall(r"<td>(\d[\d,]*)</td></tr>", text) == ["1,000,000", "5"]


def test_nothing_is_loaded_from_elsewhere_and_nothing_is_inline(
    client: httpx.Client, browser: httpx.Client, name: str
) -> None:
    for path in made(client, name, 1), "/counters":
        answered = browser.get(path)
        assert answered.headers["content-security-policy"].startswith("default-src 'none'; style-src 'self'; script-")
        without_snippets = re.sub("<code>.*?</code>", "", page(answered))
        assert not re.search(r"https?://|//|\bon[a-z]+=|style=|<style|<script>", without_snippets)
        assets = re.findall(r'(?:src|href)="(/assets/[^"]*)"', answered.text)
        assert {"/assets/pages.css", "/assets/icon.svg"} <= set(assets)
        size = len(answered.content)
        for asset in assets:
            found = browser.get(asset)
            assert found.status_code == 200
            again = browser.get(asset, headers={"If-None-Match": found.headers["etag"]})
            assert (again.status_code, again.headers["cache-control"]) == (304, "public, max-age=0")
            size += len(found.content)
        assert size < 12_000


def test_a_title_is_text_whatever_it_holds(client: httpx.Client, browser: httpx.Client, name: str) -> None:
    text = page(browser.get(made(client, name, 0, "<script>alert('&\"')</script>")))
    assert "<script>alert" not in text
    assert text.count("&lt;script&gt;alert(&#39;&amp;&#34;&#39;)&lt;/script&gt;") == 2
    assert f"<h1>{name}</h1>" in page(browser.get(made(client, name, 0, " \n")))


def test_snippets_show_the_badge_and_count_loads_only_where_the_owner_allows_it(
    client: httpx.Client, browser: httpx.Client, name: str
) -> None:
    path = made(client, name, 1)
    url = f"{client.base_url}".rstrip("/") + path

    def snippets() -> list[str]:
        return [unescape(one) for one in re.findall("<code>(.*?)</code>", page(browser.get(path)))]

    shown = [f"![{name}]({url}/badge.svg)", f'<img src="{url}/badge.svg" alt="{name}">']
    assert snippets() == shown
    client.put(path, json={"image_hits": 5}).raise_for_status()
    assert snippets() == shown + [one.replace("badge.svg", "hit.svg") for one in shown]
    client.put(path, json={"private": True, "image_hits": 5}).raise_for_status()
    assert snippets() == []


def test_a_counter_without_hits_says_so(client: httpx.Client, browser: httpx.Client, name: str) -> None:
    path = made(client, name, 0)
    for query in "", "?by=day", "?by=day&from=2001-01-01T00:00:00Z&to=2002-01-01T00:00:00Z":
        text = page(browser.get(path + query))
        assert "There are no hits from " in text
        assert "<svg" not in text


def test_each_span_that_a_page_offers_is_answered(client: httpx.Client, browser: httpx.Client, name: str) -> None:
    text = page(browser.get(made(client, name, 1)))
    offered = [url.replace("&amp;", "&") for url in re.findall(r'href="(/counters/[^"]*\?[^"]*)"', text)]
    counts = [page(browser.get(url)).count("<rect") for url in offered]
    assert [24 <= counts[0] <= 25, 31 <= counts[1] <= 32, 366 <= counts[2] <= 367] == [True] * 3


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("from=2026-02-01T00:00:00Z&to=2026-01-01T00:00:00Z", "must be before"),
        ("by=day&from=2016-01-01T00:00:00Z&to=2026-01-01T00:00:00Z", "1096 days at the most"),
        ("from=2025-01-01T00:00:00Z", "31 days at the most"),
        ("by=week", "by"),
    ],
)
def test_a_span_that_cannot_be_shown_is_a_page_that_says_why(
    client: httpx.Client, browser: httpx.Client, name: str, query: str, says: str
) -> None:
    assert says in page(browser.get(f"{made(client, name, 1)}?{query}"), 400)
    assert problem(client.get(f"/counters/{name}/history?{query}")) == (400, "malformed-parameter")
    assert client.get(f"/counters/{name}?{query}").status_code == 200  # the counter in JSON has no span


def test_an_unknown_counter_is_a_page_in_a_browser(browser: httpx.Client, name: str) -> None:
    text = page(browser.get(f"/counters/{name}"), 404)
    assert "There is no counter of this name." in text
    assert '<html lang="en">' in text
    assert "begins with a letter" in page(browser.get("/counters/%3Cb%3E"), 400)


def test_the_list_leads_to_every_counter(client: httpx.Client, browser: httpx.Client, name: str) -> None:
    names = [f"{name}-{number}" for number in range(5)]
    for one in names:
        made(client, one, 0)
    seen: list[str] = []
    path = f"/counters?after={name}&limit=2"
    while path and len(seen) < 5:
        text = page(browser.get(path))
        seen += re.findall(r'<li><a href="/counters/([^"]*)">\1</a>', text)
        more = re.search(r'href="(/counters\?[^"]*)">More', text)
        path = more[1].replace("&amp;", "&") if more else ""
    assert seen[:5] == names
    assert "There are none here." in page(browser.get("/counters?after=zzzz"))


@pytest.mark.parametrize("screen", SCREENS | UNDER_LOAD)
def test_the_readme_shows_the_page_on_each_screen(screen: str) -> None:
    path = f"docs/counter/images/{screen}.png"
    assert f'src="{path}"' in (ROOT / "README.md").read_text()
    image = (ROOT / path).read_bytes()
    assert struct.unpack(">II", image[16:24]) == (SCREENS | UNDER_LOAD)[screen][:2]  # of the header (PNG, 11.2.2)
    assert len(image) < 60_000
