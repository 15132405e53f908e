"""Private counters, and tokens whose scopes are limited to names with a prefix."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import httpx
import pytest

from harness.databases import Database
from harness.processes import Hypercorn, ready_hypercorn, wait_until
from service.platform.token_file import line_of
from tests.conftest import SECRET_KEY
from tests.counter.test_api import books, problem
from tests.platform.test_event_stream import messages

__all__ = ["books"]

pytestmark = pytest.mark.any_database

TOKENS = {
    "owner": ("manage", "read", "count"),
    "team": ("count:team-", "read:team-", "manage:team-"),
    "hitter": ("count",),
}
NAMES = ["open", "team-open", "team-secret", "zecret"]
READS = ["", "/history", "/badge.svg", "/badge.json", f"/receipts/{'0' * 32}"]
READS += [f"/{what}.{form}" for what in ("receipts", "history") for form in ("csv", "ndjson")]


@pytest.fixture(scope="module")
def service(
    books: Database, plain_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Hypercorn]:
    """With an open and a private counter of the team's, and of others."""
    log: Path = tmp_path_factory.mktemp("access") / "log"
    tokens = ";".join(line_of(name, scopes, f"of {name}") for name, scopes in TOKENS.items())
    own = {"SECRET_KEY": SECRET_KEY, "API_TOKENS": tokens, "BOT_FILTER": "true", "EVENT_HEARTBEAT": "0.2"}
    with ready_hypercorn({**plain_environment, **books.environment, **own}, log, workers=1) as service:
        for name in NAMES:
            made = ask(
                service, "owner", "PUT", f"/{name}", json={"private": name.endswith("cret"), "image_hits": 9_999}
            )
            assert (made.status_code, made.json()["private"]) == (201, name.endswith("cret"))
        yield service


def ask(
    service: Hypercorn, token: str | None, method: str, path: str, accept: str = "application/json", **named: object
) -> httpx.Response:
    headers = {"Accept": accept} | ({"Authorization": f"Bearer of {token}"} if token else {})
    return httpx.request(method, f"{service.url}/counters{path}", headers=headers, **named)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("token", "readable"),
    [("owner", NAMES), ("team", NAMES[:3]), ("hitter", NAMES[:2]), ("nobody", NAMES[:2]), (None, NAMES[:2])],
)
def test_a_private_counter_is_there_for_those_alone_who_may_read_it(
    service: Hypercorn, token: str | None, readable: list[str]
) -> None:
    for name in NAMES:
        for path in READS:
            answer = ask(service, token, "GET", f"/{name}{path}")
            if name not in readable:
                assert problem(answer) == (404, "no-such-counter"), path
            elif "/receipts/" in path:
                assert problem(answer) == (404, "no-such-receipt")
            else:
                assert answer.status_code == 200, path
            assert ask(service, token, "HEAD", f"/{name}{path}").status_code == answer.status_code
        assert ask(service, token, "GET", f"/{name}", "text/html").status_code == (200 if name in readable else 404)
    if token == "nobody":
        return
    listed = ask(service, token, "GET", "").json()
    assert listed["counters"] == sorted([*readable, "page"])
    page = ask(service, token, "GET", "", "text/html").text
    assert [name for name in NAMES if f'"/counters/{name}"' in page] == readable
    first = ask(service, token, "GET", "?limit=2").json()
    assert (first["counters"], first["next"]) == (["open", "page"], "/counters?after=page&limit=2")


def test_no_shared_cache_may_keep_a_private_counters_badge(service: Hypercorn) -> None:
    for name, who in ("open", "public"), ("zecret", "private"):
        for form in "svg", "json":
            answer = ask(service, "owner", "GET", f"/{name}/badge.{form}?cacheSeconds=9")
            assert answer.headers["cache-control"] == f"{who}, max-age=9"


def test_a_private_counter_looks_as_none_also_where_the_tokens_cannot_be_read(
    service: Hypercorn, books: Database
) -> None:
    books.execute("RENAME TABLE api_token TO elsewhere")
    try:
        wait_until(lambda: ask(service, "nobody", "GET", "/zecret").status_code == 503)
        for path in [*READS, "/events"]:
            for name in "zecret", "none":
                assert problem(ask(service, "nobody", "GET", f"/{name}{path}")) == (503, "unavailable"), path
    finally:
        books.execute("RENAME TABLE elsewhere TO api_token")
    wait_until(lambda: ask(service, "nobody", "GET", "/zecret").status_code == 404)


@pytest.mark.parametrize("token", [*TOKENS, "nobody", None])
def test_a_private_counter_has_no_images_that_count_and_looks_as_none(service: Hypercorn, token: str | None) -> None:
    for method, agent in ("GET", "a browser"), ("GET", "Googlebot/2.1"), ("HEAD", "a browser"):
        for name in "zecret", "none":
            headers = {"User-Agent": agent} | ({"Authorization": f"Bearer of {token}"} if token else {})
            answer = httpx.request(method, f"{service.url}/counters/{name}/hit.svg", headers=headers)
            assert answer.status_code == 404
    assert ask(service, "owner", "GET", "/zecret").json()["value"] == 0


def test_a_token_that_is_not_valid_is_refused_where_it_says_nothing_of_a_counter(service: Hypercorn) -> None:
    for method, path in ("GET", ""), ("POST", "/zecret/hits"), ("PUT", "/none"), ("DELETE", "/open"):
        assert problem(ask(service, "nobody", method, path)) == (401, "token-unknown")


def test_a_stream_of_a_private_counter_is_for_those_who_may_read_it(service: Hypercorn) -> None:
    def status(token: str | None, name: str) -> int:
        headers = {"Authorization": f"Bearer of {token}"} if token else {}
        with httpx.stream("GET", f"{service.url}/counters/{name}/events", headers=headers, timeout=30) as answered:
            return answered.status_code

    assert [status(token, "zecret") for token in ("owner", "team", "nobody", None)] == [200, 404, 404, 404]
    assert [status(token, "open") for token in ("owner", "team", "nobody", None)] == [200] * 4


def test_a_stream_of_a_private_counter_ends_so_that_its_token_is_asked_for_again(service: Hypercorn) -> None:
    headers = {"Authorization": "Bearer of owner"}
    with httpx.stream("GET", f"{service.url}/counters/zecret/events", headers=headers, timeout=30) as answered:
        parts = list(islice(messages(answered), 20))
    assert 'data: {"counter":"zecret","value":0}' in parts[1]
    assert len(parts) < 20


def test_a_scope_with_a_prefix_is_for_such_names_alone(service: Hypercorn) -> None:
    assert ask(service, "team", "POST", "/team-secret/hits").json()["number"] == 1
    assert ask(service, "team", "PUT", "/team-secret", json={"title": "Ours"}).json()["title"] == "Ours"
    assert ask(service, "team", "PUT", "/team-2").status_code == 201
    assert ask(service, "team", "DELETE", "/team-2").status_code == 204
    for method, path in ("POST", "/open/hits"), ("PUT", "/team"), ("DELETE", "/open"), ("POST", "/my-team-1/hits"):
        assert problem(ask(service, "team", method, path)) == (403, "scope-missing")
    assert ask(service, None, "GET", "/open").json()["value"] == 0


def test_a_counter_can_be_made_private_and_open_again(service: Hypercorn) -> None:
    ask(service, "owner", "PUT", "/changing", json={"title": "stays"})
    for private in True, False:
        changed = ask(service, "owner", "PUT", "/changing", json={"private": private}).json()
        assert (changed["private"], changed["title"]) == (private, "stays")
        assert ask(service, None, "GET", "/changing").status_code == (404 if private else 200)
    assert ask(service, "owner", "DELETE", "/changing").status_code == 204
