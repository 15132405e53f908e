"""What browsers are told about scripts of other sites."""

import httpx
import pytest

from harness.databases import Database
from tests.conftest import Start

pytestmark = pytest.mark.any_database

FRIEND, STRANGER = "https://friend.example", "https://stranger.example"
PREFLIGHT = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "idempotency-key,authorization"}


def allowed(answer: httpx.Response) -> str | None:
    origin: str | None = answer.headers.get("access-control-allow-origin")
    return origin


def test_scripts_of_the_sites_named_may_use_every_route_and_read_errors(database: Database, start: Start) -> None:
    service = start(app="tests.platform.probe:app", workers=1, CORS_ORIGINS=f"{FRIEND},http://127.0.0.1:3000")
    for path in "/livez", "/nowhere", "/probe/error":
        answer = httpx.get(service.url + path, headers={"Origin": FRIEND})
        assert allowed(answer) == FRIEND, path
        assert "Origin" in answer.headers["vary"]
        assert "access-control-allow-credentials" not in answer.headers
        assert "Retry-After" in answer.headers["access-control-expose-headers"]
        assert allowed(httpx.get(service.url + path, headers={"Origin": STRANGER})) is None
    preflight = httpx.options(f"{service.url}/livez", headers={"Origin": FRIEND, **PREFLIGHT})
    assert preflight.status_code == 200
    assert allowed(preflight) == FRIEND
    assert "PUT" in preflight.headers["access-control-allow-methods"]
    assert "idempotency-key" in preflight.headers["access-control-allow-headers"].lower()
    assert allowed(httpx.options(f"{service.url}/livez", headers={"Origin": STRANGER, **PREFLIGHT})) is None


def test_by_default_no_other_site_is_allowed_and_with_a_star_all_are(database: Database, start: Start) -> None:
    closed, opened = start(workers=1), start(workers=1, CORS_ORIGINS="*")
    assert not [
        name for name in httpx.get(f"{closed.url}/livez", headers={"Origin": FRIEND}).headers if "access" in name
    ]
    assert allowed(httpx.get(f"{opened.url}/livez", headers={"Origin": STRANGER})) == "*"
