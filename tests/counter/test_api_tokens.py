from pathlib import Path

import httpx
import pytest

from harness.databases import Database
from tests.conftest import Start
from tests.platform.test_tokens import make_token


@pytest.mark.any_database
def test_what_changes_something_needs_a_token_that_may_do_it(
    database: Database, start: Start, environment: dict[str, str], tmp_path: Path
) -> None:
    counting, managing = (
        make_token(environment, "c", "--scope", "count", "--print-only"),
        make_token(environment, "m", "--scope", "manage", "--print-only"),
    )
    secret = counting.stdout.strip()
    file = tmp_path / "tokens"
    file.write_text(
        "# who may do what\n\n" + "".join(one.stderr.splitlines()[-1] + "\n" for one in (counting, managing))
    )
    service = start(workers=1, API_TOKENS_FILE=file)

    def ask(method: str, path: str, authorization: str | None) -> httpx.Response:
        headers = {"Accept": "application/json"} | ({"Authorization": authorization} if authorization else {})
        return httpx.request(method, f"{service.url}{path}", headers=headers)

    hits = "/counters/page/hits"
    for authorization, slug in (
        (None, "token-needed"),
        ("Bearer no", "token-unknown"),
        (f"Basic {secret}", "token-unknown"),
    ):
        answer = ask("POST", hits, authorization)
        assert (answer.status_code, answer.json()["type"]) == (401, f"/problems/{slug}")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert ask("POST", hits, f"Bearer {secret}").status_code == 200
    for method in "PUT", "DELETE":
        assert ask(method, "/counters/page", None).status_code == 401
        answer = ask(method, "/counters/page", f"bearer {secret}")
        assert (answer.status_code, answer.json()["type"]) == (403, "/problems/scope-missing")
    assert ask("PUT", "/counters/another", f"Bearer {managing.stdout.strip()}").status_code == 201
    assert ask("GET", "/counters/page", None).json()["value"] == 1
    keyed = {"Idempotency-Key": '"k"', "Authorization": f"Bearer {secret}"}
    assert httpx.post(service.url + hits, headers=keyed).json()["number"] == 2
    assert httpx.post(service.url + hits, headers=keyed).json()["number"] == 2
    for key, number in ("k", 3), ('"c k"', 4):  # a key belongs to its token
        assert httpx.get(service.url, headers={"Idempotency-Key": key}).text == f"<h1>Counter: {number}</h1>"
    assert secret not in file.read_text() + service.log.read_text()


def test_a_publishable_token_is_for_one_counter(environment: dict[str, str]) -> None:
    made = make_token(environment, "p", "--scope", "publish", "--print-only")
    assert (made.returncode, made.stdout) == (2, "")
    assert "write publish:NAME" in made.stderr
    assert make_token(environment, "p", "--scope", "publish:visits", "--print-only").returncode == 0


@pytest.mark.any_database
def test_in_development_no_token_is_needed(database: Database, start: Start) -> None:
    service = start(workers=1, QUART_ENV="development")
    assert httpx.put(f"{service.url}/counters/new").status_code == 201


@pytest.mark.any_database
@pytest.mark.parametrize(("setting", "statuses"), [("true", [200, 200]), ("false", [404, 404])])
def test_a_hit_makes_its_counter_only_where_that_is_wanted(
    database: Database, start: Start, setting: str, statuses: list[int]
) -> None:
    service = start(workers=1, API_TOKENS_REQUIRED="false", COUNTERS_AUTO_CREATE=setting)
    assert [httpx.post(f"{service.url}/counters/new/hits").status_code for _ in statuses] == statuses
    assert len(database.execute("SELECT 1 FROM counter WHERE name = 'new' AND count = 2")) == (setting == "true")
