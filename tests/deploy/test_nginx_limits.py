import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.nginx import PATH, Nginx, Upstream, nginx, path_with, render, upstream
from harness.processes import wait_until
from service.platform.settings import ROOT

pytestmark = pytest.mark.nginx


@pytest.fixture
def service() -> Iterator[Upstream]:
    with upstream() as running:
        yield running


@pytest.fixture
def proxy(service: Upstream, tmp_path: Path) -> Iterator[Nginx]:
    with nginx(tmp_path, service.address) as running:
        yield running


HTTP = "Host: x\r\nAccept: application/json\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        ("nonsense\r\n\r\n", 400),
        (f"GET / HTTP/1.1\r\nContent-Length: x\r\n{HTTP}", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        (f"GET / HTTP/3.0\r\n{HTTP}", 505),
        (f"TRACE / HTTP/1.1\r\n{HTTP}", 405),
        (f"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n{HTTP}", 501),
        (f"GET /{'x' * 9000} HTTP/1.1\r\n{HTTP}", 414),
        (f"GET / HTTP/1.1\r\nX: {'x' * 9000}\r\n{HTTP}", 431),
        ("GET / HTTP/1.1\r\n" + f"X: {'x' * 4000}\r\n" * 5 + HTTP, 431),
        (f"POST / HTTP/1.1\r\nContent-Length: 65537\r\n{HTTP}", 413),
    ],
)
def test_what_cannot_be_taken_gets_its_status_and_says_what_happened(
    raw: str, status: int, proxy: Nginx, service: Upstream
) -> None:
    head, _, body = proxy.exchange(raw.encode()).decode().partition("\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ")
    assert head.count("nosniff") == head.count("X-Request-ID") == 1
    assert str(status) in body
    assert "nginx" not in body
    assert not service.requests
    wait_until(proxy.access_log)
    assert proxy.access_log()[0]["status"] == str(status)


def test_the_largest_header_and_body_are_taken(proxy: Nginx, service: Upstream) -> None:
    many = {f"X_{i}": "x" * 3900 for i in range(4)}
    assert proxy.get("/", "POST", "b" * 65536, **many).status == 200
    assert len(service.requests[0].body) == 65536


def test_the_largest_body_is_a_setting_and_one_larger_than_the_buffer_arrives(
    service: Upstream, tmp_path: Path
) -> None:
    with nginx(tmp_path, service.address, MAX_BODY_SIZE="2000000") as proxy:
        assert proxy.get("/", "POST", "b" * 2_000_000).status == 200
        assert proxy.get("/", "POST", "b" * 2_000_001).status == 413
    assert [len(request.body) for request in service.requests] == [2_000_000]


def test_a_chunked_body_that_grows_too_large_is_refused(proxy: Nginx, service: Upstream) -> None:
    chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    assert proxy.exchange(head + chunk * 3 + b"0\r\n\r\n").startswith(b"HTTP/1.1 413 ")
    assert not service.requests


def test_slow_clients_are_dropped_while_others_are_served(service: Upstream, tmp_path: Path) -> None:
    short = {
        "client_header_timeout 10s": "client_header_timeout 1s",
        "client_body_timeout 10s": "client_body_timeout 1s",
    }
    sent = b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nx"
    with nginx(tmp_path, service.address, edit=short) as proxy, ThreadPoolExecutor() as threads:
        slow = [threads.submit(proxy.exchange, data) for data in sent]
        assert proxy.get().status == 200
        assert [one.result(timeout=10) for one in slow] == [b"", b""]
        wait_until(lambda: len(proxy.access_log()) == 3)
        assert sorted(str(line["status"]) for line in proxy.access_log()) == ["200", "408", "408"]
    assert len(service.requests) == 1


def test_the_limits_agree_with_the_services_and_hypercorns(proxy: Nginx) -> None:
    hypercorn = tomllib.loads((ROOT / "hypercorn.toml").read_text())
    here = (ROOT / "nginx.conf").read_text()
    upstream = (proxy.output.parent / "rendered/http.conf").read_text()

    def number(text: str, name: str) -> int:
        return int(re.search(rf"\b{name} (\d+)", text)[1])  # type: ignore[index]

    longest_request = 25
    assert longest_request < number(here, "proxy_read_timeout") <= hypercorn["graceful_timeout"]
    assert number(here, "worker_shutdown_timeout") >= number(here, "proxy_read_timeout")
    assert number(upstream, "keepalive_timeout") < hypercorn["keep_alive_timeout"]
    assert number(upstream, "keepalive_requests") < hypercorn["keep_alive_max_requests"]
    assert number(here, "client_body_timeout") == 10  # as BODY_TIMEOUT
    assert hypercorn["h11_max_incomplete_size"] > 2 * 8 * 1024


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LISTEN", "127.0.0.1:80; return 200"),
        ("UPSTREAM", "127.0.0.1:80 backup;"),
        ("RESOLVER", "127.0.0.11\n;"),
        ("TRUSTED_BALANCERS", "all"),
        ("MAX_BODY_SIZE", "64k"),
        ("RATE_LIMIT", "10"),
        ("RATE_LIMIT", "0r/s"),
        ("RATE_LIMIT", "1r/s;\n2r/s"),
        ("RATE_LIMIT_BURST", "many"),
        ("LISTEN_TLS", "127.0.0.1:443 default_server;"),
        ("HTTPS_PORT", "https"),
        ("HSTS_MAX_AGE", "31536000; preload"),
    ],
)
def test_a_malformed_setting_is_named(name: str, value: str, tmp_path: Path) -> None:
    settings = {"LISTEN": "127.0.0.1:8080", "UPSTREAM": "127.0.0.1:8000", name: value}
    rendered = render(tmp_path, **settings)
    assert rendered.returncode == 1
    assert rendered.stderr == f"{name} is malformed: see .quartenv.example.\n"


@pytest.mark.parametrize("name", ["LISTEN", "UPSTREAM"])
def test_a_missing_setting_is_named(name: str, tmp_path: Path) -> None:
    settings = {"LISTEN": "127.0.0.1:8080", "UPSTREAM": "127.0.0.1:8000", name: ""}
    rendered = render(tmp_path, **settings)
    assert rendered.returncode != 0
    assert name in rendered.stderr


def test_a_burst_of_none_leaves_the_rate_alone(service: Upstream, tmp_path: Path) -> None:
    with nginx(tmp_path, service.address, RATE_LIMIT="1r/m", RATE_LIMIT_BURST="0") as proxy:
        assert [proxy.get("/").status for _ in range(2)] == [200, 429]


def test_a_client_who_sends_too_much_is_told_when_to_come_back_and_others_are_served(
    service: Upstream, tmp_path: Path
) -> None:
    trusted = "127.0.0.1"
    with nginx(tmp_path, service.address, RATE_LIMIT="2r/m", RATE_LIMIT_BURST="1", TRUSTED_BALANCERS=trusted) as proxy:

        def status(client: str, target: str = "/") -> int:
            return proxy.get(target, X_Forwarded_For=client).status

        assert [status("192.0.2.1") for _ in range(4)] == [200, 200, 429, 429]
        assert [status("192.0.2.2"), status("192.0.2.1", "/livez"), status("192.0.2.1", "/%6civez")] == [200, 200, 200]
        assert [status(f"2001:db8:1:2{end}") for end in ("::1", "::2", ":a:b:c:d")] == [200, 200, 429]
        assert [status(f"2001:db8::{end}") for end in ("1", "1:2:3:4", "5")] == [200, 200, 429]
        assert status("2001:db8:1:3::1") == 200
        answer = proxy.get("/", X_Forwarded_For="192.0.2.1", Accept="application/json")
        assert json.loads(answer.text)["type"] == "/problems/too-many-requests"
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["retry-after"] == "30"
        assert "<h1>Too Many Requests</h1>" in proxy.get("/", X_Forwarded_For="192.0.2.1", Accept="text/html").text
    refused = [line for line in proxy.access_log() if line["status"] == "429"]
    assert {line["upstream"] for line in refused} == {""}
    assert "limiting" not in proxy.output.read_text()


def test_without_a_rate_there_is_no_limit(proxy: Nginx, service: Upstream) -> None:
    assert {proxy.get().status for _ in range(100)} == {200}


@pytest.mark.parametrize(
    ("file", "resolver"),
    [
        ("search x\nnameserver 10.89.0.1\nnameserver 10.89.0.2\n", "10.89.0.1"),
        ("# nameserver 1.1.1.1\nnameserver\tfd00::1\noptions ndots:0\n", "[fd00::1]"),
        ("nameserver fe80::1%eth0\nnameserver 10.0.0.1\n", "10.0.0.1"),
    ],
)
def test_the_resolver_is_the_first_of_a_file(file: str, resolver: str, tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text(file)
    rendered = render(
        tmp_path / "nginx", LISTEN="127.0.0.1:1", UPSTREAM="web:8000", RESOLVER=str(tmp_path / "resolv.conf")
    )
    assert rendered.returncode == 0, rendered.stderr
    assert f"resolver {resolver} valid=1s" in (tmp_path / "nginx/rendered/http.conf").read_text()


def test_a_file_without_a_resolver_is_refused(tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("search x\n")
    rendered = render(
        tmp_path / "nginx", LISTEN="127.0.0.1:1", UPSTREAM="web:8000", RESOLVER=str(tmp_path / "resolv.conf")
    )
    assert rendered.returncode != 0
    assert "its file names no nameserver" in rendered.stderr


@pytest.mark.parametrize(
    ("processors", "workers", "buffer"), [(1, 1, "64k"), (4, 1, "64k"), (5, 2, "4k"), (16, 4, "4k"), (64, 8, "4k")]
)
def test_a_worker_for_every_four_processors_and_writes_that_stay_whole_where_there_are_several(
    processors: int, workers: int, buffer: str, tmp_path: Path
) -> None:
    settings = {"LISTEN": "127.0.0.1:1", "UPSTREAM": "127.0.0.1:2", "PATH": path_with(processors, tmp_path)}
    assert render(tmp_path / "nginx", **settings).returncode == 0
    rendered = tmp_path / "nginx/rendered"
    assert f"worker_processes {workers};" in (rendered / "main.conf").read_text()
    assert f"buffer={buffer} " in (rendered / "access_log.conf").read_text()


def test_a_worker_for_the_processors_on_which_it_may_run(tmp_path: Path) -> None:
    command = [ROOT / "deploy/nginx/render", tmp_path]
    settings = {"PATH": PATH, "LISTEN": "127.0.0.1:1", "UPSTREAM": "127.0.0.1:2"}
    subprocess.run(["taskset", "--cpu-list", "0", *command], env=settings, check=True)
    assert "worker_processes 1;" in (tmp_path / "rendered/main.conf").read_text()


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80, and on every other address of this machine"),
        ("::", "http://[::1]:80, and on every other address of this machine"),
        ("::1", "http://[::1]:80"),
        ("[::1]", "http://[::1]:80"),
        ("example.org", "http://example.org:80"),
        ("example.org", "https://example.org:80"),
    ],
)
def test_what_is_printed_can_be_opened(address: str, url: str) -> None:
    command = [str(ROOT / "deploy/nginx/url"), address, "80", url.partition(":")[0]]
    printed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert printed.stdout == f"{url}\n"
