"""/openapi.json is true: what it says is what the running service does, and it is the page's only source."""

import json
import re
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import checks
from schemathesis.core.result import Ok
from schemathesis.specs.openapi import checks as conformance

from harness.databases import Database
from harness.processes import Hypercorn
from service import create_app
from service.platform.settings import ROOT, load_settings
from tests.conftest import SECRET_KEY
from tests.counter.test_api import LARGEST, books, client, name, service

__all__ = ["books", "client", "name", "service"]

pytestmark = pytest.mark.any_database

CHECKS = [
    checks.not_a_server_error,
    conformance.status_code_conformance,
    conformance.content_type_conformance,
    conformance.response_schema_conformance,
    conformance.response_headers_conformance,
]


def document(service: Hypercorn) -> dict[str, Any]:
    return dict(httpx.get(f"{service.url}/openapi.json").json())


@pytest.mark.parametrize("examples", [pytest.param(200, marks=pytest.mark.rehearsal), 25])
def test_what_the_document_says_is_what_is_answered(service: Hypercorn, examples: int) -> None:
    api = schemathesis.openapi.from_dict(document(service))
    api.config.update(base_url=service.url)
    seen: set[int] = set()
    for found in api.get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.explicit, Phase.generate],
        )
        @given(case=operation.as_strategy())
        def ask(case: schemathesis.Case[Any]) -> None:
            case.headers.pop("Authorization", None)  # one that is made up; without one, all is allowed here
            answer = case.call(headers={"Accept": "application/json"})
            seen.add(answer.status_code)
            case.validate_response(answer, checks=CHECKS)

        ask()
    assert {200, 201, 400, 404} <= seen


def test_the_document_says_what_the_decorators_cannot(service: Hypercorn) -> None:
    api = document(service)
    assert api["openapi"].startswith("3.1")
    assert api["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    hit = api["paths"]["/counters/{name}/hits"]["post"]
    assert hit["security"] == [{"bearer": []}]
    assert [p["name"] for p in hit["parameters"] if p["in"] == "header"] == ["Idempotency-Key"]
    assert {"200", "400", "401", "403", "404", "409", "415", "422", "503", "504"} <= set(hit["responses"])
    assert "application/problem+json" in hit["responses"]["422"]["content"]
    assert list(hit["responses"]["200"]["headers"]) == ["Idempotent-Replayed"]
    assert set(hit["responses"]["200"]["content"]) == {"application/json", "text/plain"}
    assert set(api["paths"]["/counters/{name}"]["delete"]["responses"]) >= {"204", "404"}
    references = re.findall(r'"#/components/schemas/(\w+)"', json.dumps(api))
    assert set(references) <= set(api["components"]["schemas"])
    assert str(LARGEST) in json.dumps(api)


def test_the_page_to_try_it_is_served_with_all_that_it_loads(service: Hypercorn) -> None:
    page = httpx.get(f"{service.url}/docs")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "script-src" not in page.headers["content-security-policy"]
    assert not re.search(r"https?://|\bon[a-z]+=|style=|<script>", page.text)
    for asset in re.findall(r'(?:src|href)="([^"]*)"', page.text):
        found = httpx.get(service.url + asset)
        assert (found.status_code, found.headers["cache-control"]) == (200, "public, max-age=0")
        again = httpx.get(service.url + asset, headers={"If-None-Match": found.headers["etag"]})
        assert again.status_code == 304
    assert httpx.get(f"{service.url}/docs/index.html").status_code == 404


def test_docs_api_md_names_each_route(
    service: Hypercorn, books: Database, plain_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in {**plain_environment, **books.environment, "SECRET_KEY": SECRET_KEY}.items():
        monkeypatch.setenv(variable, value)
    rules = [
        rule
        for rule in create_app(load_settings()).url_map.iter_rules()
        if rule.rule.startswith("/counters") or rule.endpoint.startswith("openapi.")
    ]
    routes = {
        (method, re.sub("<([^>]+)>", r"{\1}", rule.rule))
        for rule in rules
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    text = (ROOT / "docs/counter/api.md").read_text()
    for method, path in routes:
        assert f"`{method} {path}`" in text, f"docs/counter/api.md does not name {method} {path}"
    documented = {(method.upper(), path) for path, of in document(service)["paths"].items() for method in of}
    streams = {("GET", "/counters/{name}/events")}  # which api.md says are left out
    assert documented == {route for route in routes if route[1].startswith("/counters")} - streams
