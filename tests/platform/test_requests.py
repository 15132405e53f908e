"""What the platform does to every request: errors in the client's form, limits, time-outs, the client's address."""

import json
import re
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from harness.databases import Database, DatabaseServer, new_database
from harness.nginx import nginx
from harness.processes import Hypercorn, hypercorn
from service import create_app
from service.platform.settings import ROOT, load_settings
from tests.conftest import SECRET_KEY, MakeTables, Start

pytestmark = pytest.mark.any_database

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
API = {"Accept": "application/json"}


@pytest.fixture(scope="module")
def service(
    server: DatabaseServer,
    make_tables: MakeTables,
    plain_environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Hypercorn]:
    """The service with the probe's routes and short time-outs, one for all tests here."""
    with new_database(server) as database:
        environment = {
            **plain_environment,
            **database.environment,
            "SECRET_KEY": SECRET_KEY,
            "BODY_TIMEOUT": "1",
            "MAX_BODY_SIZE": "2000",
            "REQUEST_TIMEOUT": "2",
            "DB_STATEMENT_TIMEOUT": "1.5",
            "DB_LOCK_TIMEOUT": "1",
        }
        make_tables(database)
        log = tmp_path_factory.mktemp("service") / "log"
        with hypercorn(environment, log, app="tests.platform.probe:app", workers=1) as running:
            yield running


def raw(server: Hypercorn, request: bytes) -> bytes:
    """Sends the bytes and returns all that is answered until the server closes or says nothing for five seconds."""
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=5)) as connection:
        connection.sendall(request)
        answered = b""
        while part := connection.recv(65536):
            answered += part
        return answered


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nowhere", 404), ("DELETE", "/livez", 405)])
def test_an_unknown_path_or_method_is_answered_in_the_form_that_the_client_asks_for(
    service: Hypercorn, method: str, path: str, status: int
) -> None:
    page = httpx.request(method, service.url + path, headers=BROWSER)
    assert page.status_code == status
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert f"<title>{status} " in page.text
    assert httpx.request(method, service.url + path).headers["content-type"] == "application/problem+json"
    problem = httpx.request(method, service.url + path, headers=API)
    assert problem.status_code == status
    assert problem.headers["content-type"] == "application/problem+json"
    assert problem.json()["status"] == status
    assert set(problem.json()) == {"type", "title", "status", "detail"}
    numbered = {"X-Request-ID": "the-request"}
    assert httpx.request(method, service.url + path, headers=numbered).json()["request_id"] == "the-request"
    page = httpx.request(method, service.url + path, headers={**BROWSER, **numbered})
    assert "<p>Request the-request</p>" in page.text
    assert status != 405 or "GET" in problem.headers["allow"]


def test_an_error_in_a_view_shows_no_traceback_to_the_client_and_is_logged(service: Hypercorn) -> None:
    for headers in BROWSER, API:
        answer = httpx.get(f"{service.url}/probe/error", headers={**headers, "X-Request-ID": "the-request"})
        assert answer.status_code == 500
        assert "secret" not in answer.text
        assert "Traceback" not in answer.text
    line = next(line for line in service.log.read_text().splitlines() if "the secret of the traceback" in line)
    assert json.loads(line)["request_id"] == "the-request"
    assert json.loads(line)["level"] == "error"


def test_development_shows_the_error(database: Database, start: Start) -> None:
    service = start(app="tests.platform.probe:app", workers=1, QUART_ENV="development")
    assert "the secret of the traceback" in httpx.get(f"{service.url}/probe/error").text


def test_a_request_that_takes_too_long_is_answered_504(service: Hypercorn) -> None:
    answer = httpx.get(f"{service.url}/probe/sleep?seconds=20", headers=API)
    assert answer.status_code == 504
    assert "not known" in answer.json()["detail"]


def test_a_statement_that_takes_too_long_is_answered_503_with_retry_after(service: Hypercorn) -> None:
    answer = httpx.get(f"{service.url}/probe/query?sql=SELECT+SLEEP(20)", headers=API)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert "was not carried out" in answer.json()["detail"]


@pytest.mark.parametrize("host", ["a" * 64 + ".org", "x..org", ".", ".."])
def test_a_host_that_nobody_can_have_is_refused(service: Hypercorn, host: str) -> None:
    for target in "/livez", "/nowhere", "//probe//plain":
        answered = raw(service, f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        head, _, body = answered.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400")
        assert json.loads(body)["type"] == "/problems/bad-request"


@pytest.mark.parametrize("host", ["[::1", "a:b", "a,b", "user@host", "\xc3\xa4", "\xff", "", "x:0"])
def test_a_host_that_is_only_odd_is_of_no_account(service: Hypercorn, host: str) -> None:
    for target, status in ("/livez", b"200"), ("/nowhere", b"404"), ("//probe//plain", b"308"):
        request = f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        assert raw(service, request.encode("latin-1")).startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("//probe//plain?a=%C3%A4&b", "/probe/plain?a=%C3%A4&b"),
        ("/probe/folder", "/probe/folder/"),
        ("//probe/folder", "/probe/folder/"),
        ("///evil.example//probe/folder", None),
    ],
)
def test_a_redirect_leads_to_no_other_host(service: Hypercorn, target: str, location: str | None) -> None:
    answered = raw(service, f"GET {target} HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n".encode())
    found = re.search(rb"location: (.*)\r", answered)
    assert (found[1].decode() if found else None) == location
    assert b"evil" not in answered


@pytest.mark.parametrize("path", ["/docs/" + "a" * 300, "/docs/%00", "/docs/..%2Fapp.py", "/docs/" + "%C3%A4" * 200])
def test_a_file_that_cannot_be_is_not_found(service: Hypercorn, path: str) -> None:
    assert httpx.get(service.url + path).status_code == 404


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ("bytes=0-3", 206),
        ("bytes=-4", 200),
        ("bytes=0-1,3-4", 200),
        ("bytes=4-1", 200),
        ("lines=1-2", 416),
        ("x", 200),
        ("bytes=9999999-", 416),
    ],
)
def test_a_range_of_a_file_is_answered_with_the_part_or_the_whole(service: Hypercorn, asked: str, status: int) -> None:
    whole = httpx.get(f"{service.url}/docs/start.js").content
    answer = httpx.get(f"{service.url}/docs/start.js", headers={"Range": asked})
    assert answer.status_code == status
    if status != httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
        assert answer.content == (whole[:4] if status == httpx.codes.PARTIAL_CONTENT else whole)
    else:
        assert answer.json()["type"] == "/problems/range-not-satisfiable"


def test_a_body_that_is_too_large_is_answered_413(service: Hypercorn) -> None:
    assert httpx.post(f"{service.url}/probe/body", content=b"x" * 2000).text == "2000"
    assert httpx.post(f"{service.url}/probe/body", content=b"x" * 2001).status_code == 413
    chunks = (b"x" * 1000 for _ in range(3))
    assert httpx.post(f"{service.url}/probe/body", content=chunks).status_code == 413


def test_a_body_that_does_not_come_is_answered_408(service: Hypercorn) -> None:
    answered = raw(service, b"POST /probe/body HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 9\r\n\r\nx")
    assert answered.startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("header", [b"X: " + b"x" * 100_000, b"no colon in this line", b"Content-Length: minus"])
def test_headers_that_are_too_large_or_malformed_are_refused(service: Hypercorn, header: bytes) -> None:
    answered = raw(service, b"GET /livez HTTP/1.1\r\nHost: x\r\n" + header + b"\r\n\r\n")
    assert re.match(rb"HTTP/1\.1 4\d\d", answered)
    assert httpx.get(f"{service.url}/livez").status_code == 200


def test_neither_server_nor_date_header_is_sent_which_nginx_adds(service: Hypercorn) -> None:
    headers = httpx.get(f"{service.url}/livez").headers
    assert "server" not in headers
    assert "date" not in headers


FORWARDED = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}


@pytest.mark.parametrize(
    ("trusted", "seen"),
    [
        ("127.0.0.1", "https 203.0.113.9"),
        ("127.0.0.0/8", "https 203.0.113.9"),
        ("localhost", "https 203.0.113.9"),
        ("192.0.2.1,no-such-host.invalid", "http 127.0.0.1"),
    ],
)
def test_the_clients_address_is_believed_from_a_trusted_proxy_only(
    database: Database, start: Start, trusted: str, seen: str
) -> None:
    service = start(app="tests.platform.probe:app", workers=1, TRUSTED_PROXIES=trusted)
    assert httpx.get(f"{service.url}/probe/client", headers=FORWARDED).text == seen
    assert httpx.get(f"{service.url}/probe/client").text == "http 127.0.0.1"


@pytest.mark.nginx
@pytest.mark.parametrize(("trusted", "seen"), [("unix:", "http 127.0.0.1"), ("127.0.0.1", "http <local>")])
def test_nginx_is_believed_through_a_unix_socket_only_where_that_is_trusted(
    environment: dict[str, str], tmp_path: Path, trusted: str, seen: str
) -> None:
    path, told = tmp_path / "socket", {**environment, "TRUSTED_PROXIES": trusted}
    with (
        hypercorn(told, tmp_path / "log", app="tests.platform.probe:app", unix_socket=path, workers=1),
        nginx(tmp_path / "nginx", f"unix:{path}") as proxy,
    ):
        assert proxy.get("/probe/client").text == seen


def test_logs_are_json_lines_in_production(service: Hypercorn) -> None:
    lines = [json.loads(line) for line in service.log.read_text().splitlines()]
    assert {"event", "time", "level", "logger", "worker"} <= set(lines[0])


def test_every_route_is_named_by_a_test_and_by_a_document(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    rules = {rule.rule for rule in create_app(load_settings()).url_map.iter_rules()}
    assert rules >= {"/livez", "/readyz"}
    tests = texts(ROOT / "tests", "*.py")
    documents = (ROOT / "README.md").read_text() + texts(ROOT / "docs", "*.md")
    for rule in rules:
        in_tests = re.sub(r"<[^>]+>", r"[^/\"]+", rule)
        assert re.search(rf'["}}]{in_tests}["?]', tests), f"no test names {rule}"
        in_documents = re.sub(r"<([^>]+)>", r"\\{\1\\}", rule)
        assert re.search(rf"[` ]{in_documents}`", documents), f"no document names {rule}"


def texts(folder: Path, pattern: str) -> str:
    return "".join(file.read_text() for file in sorted(folder.rglob(pattern)))


def test_a_websocket_where_there_is_none_is_refused_as_any_other_request(service: Hypercorn) -> None:
    handshake = (
        "GET /nowhere HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with closing(socket.create_connection(("127.0.0.1", service.port), timeout=5)) as connection:
        connection.sendall(handshake.encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 404")
    assert not service.logged("Not within a")
