import json
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.nginx import Nginx, Upstream, answer, nginx, path_with, say_nothing, upstream, workers_of
from harness.processes import wait_until

pytestmark = pytest.mark.nginx


@pytest.fixture
def service() -> Iterator[Upstream]:
    with upstream() as running:
        yield running


@pytest.fixture
def proxy(service: Upstream, tmp_path: Path) -> Iterator[Nginx]:
    with nginx(tmp_path, service.address) as running:
        yield running


def test_the_service_gets_the_request_as_it_was_sent(proxy: Nginx, service: Upstream) -> None:
    answered = proxy.get("/a%2Fb//c?d=%20e", "POST", "the body", Cookie="f=g")
    assert (answered.status, answered.text) == (200, "fine")
    request = service.requests[0]
    assert (request.method, request.target, request.body) == ("POST", "/a%2Fb//c?d=%20e", b"the body")
    assert request.headers["Host"] == f"127.0.0.1:{proxy.port}"
    assert request.headers["Cookie"] == "f=g"


def test_head_stays_head(proxy: Nginx, service: Upstream) -> None:
    assert proxy.get(method="HEAD", Sec_Purpose="prefetch").status == 200
    assert service.requests[0].method == "HEAD"
    assert service.requests[0].headers["Sec-Purpose"] == "prefetch"


def test_a_client_without_a_host_is_served(proxy: Nginx, service: Upstream) -> None:
    assert proxy.exchange(b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200")
    assert service.requests[0].headers["Host"] == "localhost"


def test_the_connections_to_the_service_are_kept_alive(proxy: Nginx, service: Upstream) -> None:
    with ThreadPoolExecutor(4) as threads:
        statuses = list(threads.map(lambda _: proxy.get().status, range(200)))
    assert statuses == [200] * 200
    assert service.connections <= 8  # 4 at once, perhaps from each of 2 processes of nginx


def test_no_request_waits_behind_a_server_that_is_busy_while_another_is_not(service: Upstream, tmp_path: Path) -> None:
    with (
        upstream(say_nothing) as busy,
        nginx(tmp_path, service.address, busy.address, PATH=path_with(1, tmp_path)) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port)) as first,
        socket.create_connection(("127.0.0.1", proxy.port)) as second,
    ):
        for client in (first, second):
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_until(lambda: busy.requests and service.requests)
        assert [proxy.get().status for _ in range(20)] == [200] * 20
        assert len(busy.requests) == 1


def test_one_server_of_five_is_found_while_the_others_refuse(service: Upstream, tmp_path: Path) -> None:
    refusing = [f"127.0.0.{number}:1" for number in range(101, 105)]
    with nginx(tmp_path, *refusing, service.address, PATH=path_with(1, tmp_path)) as proxy:
        assert [proxy.get().status for _ in range(20)] == [200] * 20


def test_what_a_client_says_about_addresses_is_not_believed(proxy: Nginx, service: Upstream) -> None:
    proxy.get(X_Forwarded_For="1.2.3.4", X_Forwarded_Proto="https", X_Forwarded_Host="evil", Forwarded="for=1.2.3.4")
    headers = service.requests[0].headers
    assert headers.get_all("X-Forwarded-For") == ["127.0.0.1"]
    assert headers.get_all("X-Forwarded-Proto") == ["http"]
    assert headers.get_all("X-Forwarded-Host") is None
    assert headers.get_all("Forwarded") is None


def test_a_trusted_balancer_is_believed_about_the_client(service: Upstream, tmp_path: Path) -> None:
    with nginx(tmp_path, service.address, TRUSTED_BALANCERS="10.0.0.0/8, 127.0.0.1") as proxy:
        proxy.get(X_Forwarded_For="6.6.6.6, 192.0.2.7, 10.1.2.3", X_Forwarded_Proto="https")
        proxy.get(X_Forwarded_Proto="javascript")
        wait_until(lambda: len(proxy.access_log()) == 2)
        assert {line["client"] for line in proxy.access_log()} == {"192.0.2.7", "127.0.0.1"}
    assert service.requests[0].headers.get_all("X-Forwarded-For") == ["192.0.2.7"]
    assert service.requests[0].headers.get_all("X-Forwarded-Proto") == ["https"]
    assert service.requests[1].headers.get_all("X-Forwarded-Proto") == ["http"]


def test_another_balancer_is_not_believed(service: Upstream, tmp_path: Path) -> None:
    with nginx(tmp_path, service.address, TRUSTED_BALANCERS="10.0.0.0/8") as proxy:
        proxy.get(X_Forwarded_For="192.0.2.7", X_Forwarded_Proto="https")
    assert service.requests[0].headers["X-Forwarded-For"] == "127.0.0.1"
    assert service.requests[0].headers["X-Forwarded-Proto"] == "http"


@pytest.mark.parametrize("sent", ["a", "Z" * 128, "3f6c-11.x_9"])
def test_a_sane_request_id_is_kept(sent: str, proxy: Nginx, service: Upstream) -> None:
    assert proxy.get(X_Request_ID=sent).headers["x-request-id"] == sent
    assert service.requests[0].headers.get_all("X-Request-ID") == [sent]


@pytest.mark.parametrize("sent", [None, "", "Z" * 129, "a b", 'a"b', "ä", "a;b"])
def test_a_request_id_is_made_in_place_of_none_or_a_wild_one(sent: str | None, proxy: Nginx, service: Upstream) -> None:
    answers = [proxy.get(**({} if sent is None else {"X_Request_ID": sent})) for _ in range(2)]
    ids = [answered.headers["x-request-id"] for answered in answers]
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in ids)
    assert ids[0] != ids[1]
    assert [request.headers["X-Request-ID"] for request in service.requests] == ids


def test_the_request_id_is_answered_once_also_where_the_service_answers_one(proxy: Nginx, service: Upstream) -> None:
    service.respond = answer(X_Request_ID="of the service")
    assert proxy.get(X_Request_ID="mine").headers["x-request-id"] == "mine"


@pytest.mark.parametrize("status", ["200 OK", "404 Not Found", "500 Internal Server Error", "502 Bad", "504 Timeout"])
def test_the_services_own_answers_are_passed_on_untouched(status: str, proxy: Nginx, service: Upstream) -> None:
    service.respond = answer("its own words", status, Content_Type="text/x", Location="http://service/x")
    answered = proxy.get(Accept="application/json")
    assert (answered.status, answered.text) == (int(status[:3]), "its own words")
    assert answered.headers["content-type"] == "text/x"
    assert answered.headers["location"] == "http://service/x"
    assert len(service.requests) == 1


@pytest.mark.parametrize("target", ["/", "/readyz"])
def test_every_answer_has_the_security_headers_and_may_not_be_cached(target: str, proxy: Nginx) -> None:
    headers = proxy.get(target).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["referrer-policy"] == "strict-origin-when-cross-origin"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cache-control"] == "no-store"
    assert headers["server"] == "nginx"
    assert "x-request-id" in headers
    assert "retry-after" not in headers


def test_what_the_service_sets_itself_is_not_overridden(proxy: Nginx, service: Upstream) -> None:
    own = {
        "content_security_policy": "default-src *",
        "cache_control": "max-age=60",
        "referrer_policy": "no-referrer",
        "cross_origin_opener_policy": "unsafe-none",
        "retry_after": "7",
    }
    service.respond = answer(status="503 Busy", **own)
    headers = proxy.get().headers
    assert {name: headers[name.replace("_", "-")] for name in own} == own


@pytest.mark.parametrize("path", ["/readyz", "/metrics", "/metrics/x", "//readyz", "/a/../readyz", "/%72eadyz?a"])
def test_operations_paths_are_not_open(path: str, proxy: Nginx, service: Upstream) -> None:
    assert proxy.get(path).status == 404
    assert not service.requests


def test_what_only_sounds_like_an_operations_path_and_livez_are_open(proxy: Nginx) -> None:
    assert [proxy.get(path).status for path in ("/livez", "/readyzz", "/metricsx", "/a/metrics")] == [200] * 4


@pytest.mark.parametrize(
    ("accept", "json_wanted"),
    [
        ("*/*", True),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", False),
        ("text/html, application/json;q=0.5", False),
        ("application/json", True),
        ("application/problem+json", True),
        ("application/JSON, text/html;q=0.5", True),
    ],
)
def test_an_error_comes_in_the_form_that_the_client_asks_for(accept: str, json_wanted: bool, proxy: Nginx) -> None:
    answered = proxy.get("/readyz", Accept=accept)
    assert answered.status == 404
    if json_wanted:
        assert answered.headers["content-type"] == "application/problem+json"
        detail = "There is nothing at this address."
        expected = {"type": "/problems/not-found", "title": "Not Found", "status": 404, "detail": detail}
        assert json.loads(answered.text) == {**expected, "request_id": answered.headers["x-request-id"]}
    else:
        assert answered.headers["content-type"] == "text/html; charset=utf-8"
        assert "<h1>Not Found</h1>" in answered.text
        assert f"<p>Request {answered.headers['x-request-id']}</p>" in answered.text


def test_the_access_log_is_json_whatever_a_client_sends(proxy: Nginx) -> None:
    proxy.get("/a?b=%22", X_Request_ID="mine", User_Agent='"quoted\\" \x01 ä', Referer="r")
    wait_until(proxy.access_log)
    line = proxy.access_log()[0]
    assert line["request_id"] == "mine"
    assert (line["method"], line["uri"], line["status"], line["client"]) == ("GET", "/a", "200", "127.0.0.1")
    assert (line["level"], line["event"]) == ("info", "request")
    assert line["worker"] in {worker.pid for worker in workers_of(proxy.output.parent)}
    assert (line["upstream_status"], line["referrer"]) == ("200", "r")
    assert str(line["user_agent"]).startswith('"quoted\\"')
    assert isinstance(line["seconds"], float)
    assert isinstance(line["bytes"], int)


@pytest.mark.parametrize("sent", ["/\xff", "/a\x80b?c", "/names/\xc3\xa4", "/a?\xff=1"])
def test_raw_bytes_in_an_address_are_refused_in_the_form_that_the_client_asks_for(
    sent: str, proxy: Nginx, service: Upstream
) -> None:
    answered = proxy.exchange(f"GET {sent} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode("latin-1"))
    assert answered.startswith(b"HTTP/1.1 400")
    assert json.loads(answered.partition(b"\r\n\r\n")[2])["type"] == "/problems/bad-request"
    assert not service.requests


def test_each_line_of_the_access_log_is_json_in_utf_8_whatever_bytes_a_client_sends(proxy: Nginx) -> None:
    every = bytes(set(range(1, 256)) - set(b"\r\n"))
    for head in (
        b"GET /\xff\xc3(?a=\xed\xa0\x80 HTTP/1.1\r\nHost: x",
        b"GET / HTTP/1.1\r\nHost: \xe9\xff",
        b"GET / HTTP/1.1\r\nHost: x\r\nReferer: " + every + b"\r\nUser-Agent: " + every,
        b"\x16\x03\x01\xff\xfe",
        b"G\xff / HTTP/1.1",
        b"GET / \xff",
    ):
        proxy.exchange(head + b"\r\nConnection: close\r\n\r\n")
    wait_until(lambda: len(proxy.access_log()) == 6)
    lines = proxy.output.read_bytes().splitlines()
    assert [json.loads(line.decode())["client"] for line in lines] == ["127.0.0.1"] * 6
