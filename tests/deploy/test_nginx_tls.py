"""TLS in nginx, as clients see it, and over reloads."""

import json
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import httpx
import psutil
import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ResponseReceived, StreamEnded, StreamReset

from harness.certificates import Authority
from harness.nginx import PATH, Nginx, Request, Upstream, answer, nginx, path_with, render, tls, upstream, workers_of
from harness.processes import wait_until
from service.platform.settings import ROOT
from tests.deploy.test_certificate import certificate, store
from tests.deploy.test_nginx_log import LONGEST, SEVERAL, WILD, logging_to_a_pipe

pytestmark = pytest.mark.nginx

YEAR = 365 * 86_400


@pytest.fixture
def service() -> Iterator[Upstream]:
    with upstream() as running:
        yield running


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "authority")


@pytest.fixture(scope="module")
def stored(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a certificate for localhost is stored."""
    folder = tmp_path_factory.mktemp("stored")
    store(folder, *authority.make("first"))
    return folder


@pytest.fixture
def folder(stored: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return shutil.copytree(stored, tmp_path / "certificates")


@pytest.fixture
def proxy(service: Upstream, folder: Path, tmp_path: Path) -> Iterator[Nginx]:
    with nginx(tmp_path, service.address, certificates=folder) as running:
        yield running


@pytest.fixture
def context(authority: Authority) -> ssl.SSLContext:
    return believing(authority)


def believing(authority: Authority) -> ssl.SSLContext:
    """Returns what a client needs that believes the authority alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority.certificate)
    return context


def connect(proxy: Nginx, context: ssl.SSLContext) -> ssl.SSLSocket:
    return context.wrap_socket(
        socket.create_connection(("127.0.0.1", proxy.tls_port), timeout=60), server_hostname="localhost"
    )


def served(proxy: Nginx, context: ssl.SSLContext) -> object:
    """Returns the serial number of the certificate that a new connection is shown."""
    with connect(proxy, context) as connection:
        return (connection.getpeercert() or {})["serialNumber"]


def reload(directory: Path) -> "subprocess.CompletedProcess[str]":
    command = [ROOT / "deploy/nginx/reload", directory]
    return subprocess.run(command, env={"PATH": PATH}, capture_output=True, text=True)


@pytest.mark.parametrize("two", [False, True])
def test_a_client_that_believes_the_authority_is_served_by_http_1_1_and_2(
    two: bool, proxy: Nginx, context: ssl.SSLContext, service: Upstream
) -> None:
    with httpx.Client(verify=context, http1=not two, http2=two) as client:
        answered = client.post(f"https://localhost:{proxy.tls_port}/a?b", content=b"the body")
    assert (answered.status_code, answered.text) == (200, "fine")
    assert answered.http_version == ("HTTP/2" if two else "HTTP/1.1")
    assert answered.headers["strict-transport-security"] == f"max-age={YEAR}"
    (request,) = service.requests
    assert (request.method, request.target, request.body) == ("POST", "/a?b", b"the body")
    assert request.headers["Host"] == f"localhost:{proxy.tls_port}"
    assert request.headers.get_all("X-Forwarded-Proto") == ["https"]
    wait_until(proxy.access_log)
    line = proxy.access_log()[0]
    assert (line["protocol"], line["host"]) == ("HTTP/2.0" if two else "HTTP/1.1", f"localhost:{proxy.tls_port}")


@pytest.mark.parametrize(
    ("version", "taken"), [("TLSv1", False), ("TLSv1_1", False), ("TLSv1_2", True), ("TLSv1_3", True)]
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1")
def test_versions_of_tls_before_1_2_are_refused(
    version: str, taken: bool, proxy: Nginx, context: ssl.SSLContext
) -> None:
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # or the client itself refuses
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    if not taken:
        with pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL_VERSION"):
            connect(proxy, context)
        return
    with connect(proxy, context) as connection:
        assert connection.version() == version.replace("_", ".")


@pytest.mark.parametrize("ciphers", ["AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA256", "DHE-RSA-AES128-GCM-SHA256"])
def test_ciphers_without_forward_secrecy_or_authenticated_encryption_are_refused(
    ciphers: str, proxy: Nginx, context: ssl.SSLContext
) -> None:
    context.set_ciphers(ciphers)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match="HANDSHAKE_FAILURE"):
        connect(proxy, context)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_is_resumed_by_any_worker(
    version: ssl.TLSVersion, folder: Path, service: Upstream, context: ssl.SSLContext, tmp_path: Path
) -> None:
    context.maximum_version = version
    with nginx(tmp_path, service.address, certificates=folder, PATH=path_with(SEVERAL, tmp_path)) as proxy:
        session, resumed = None, []
        for _ in range(8):
            connection = socket.create_connection(("127.0.0.1", proxy.tls_port), timeout=60)
            with context.wrap_socket(connection, server_hostname="localhost", session=session) as client:
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                while client.recv(65536):  # a session of TLS 1.3 comes with the first answer
                    pass
                session = client.session
                resumed.append(client.session_reused)
    assert resumed == [False] + [True] * 7


def test_what_comes_without_tls_is_sent_there_with_its_method_and_body(
    proxy: Nginx, context: ssl.SSLContext, service: Upstream
) -> None:
    answered = proxy.get("/a%2Fb?c=%20d", "POST", "the body")
    target = f"https://127.0.0.1:{proxy.tls_port}/a%2Fb?c=%20d"
    assert (answered.status, answered.headers["location"]) == (308, target)
    assert "strict-transport-security" not in answered.headers
    assert answered.headers["cache-control"] == "no-store"
    assert proxy.get("/", Upgrade="websocket", Connection="upgrade").status == 308
    assert not service.requests
    with httpx.Client(verify=context, follow_redirects=True) as client:
        assert client.post(f"http://localhost:{proxy.port}/x", content=b"the body").status_code == 200
    assert [(request.method, request.body) for request in service.requests] == [("POST", b"the body")]


def test_http_where_tls_is_spoken_is_sent_there_too(proxy: Nginx) -> None:
    said = httpx.get(f"http://127.0.0.1:{proxy.tls_port}/a?b")
    assert (said.status_code, said.headers["location"]) == (308, f"https://127.0.0.1:{proxy.tls_port}/a?b")


def test_the_usual_port_is_not_named(service: Upstream, folder: Path, tmp_path: Path) -> None:
    settings = tls(tmp_path, folder, 443)
    settings |= {"LISTEN": "127.0.0.1:80", "UPSTREAM": service.address}
    assert render(tmp_path, **settings).returncode == 0
    assert "return 308 https://$host$request_uri;" in (tmp_path / "rendered/redirect.conf").read_text()


def test_livez_and_what_a_balancer_had_by_tls_are_not_redirected(
    service: Upstream, folder: Path, tmp_path: Path
) -> None:
    with nginx(tmp_path, service.address, certificates=folder, TRUSTED_BALANCERS="127.0.0.1") as proxy:
        assert proxy.get("/livez").status == 200
        by_tls = proxy.get("/", X_Forwarded_Proto="https")
        assert (by_tls.status, by_tls.headers["strict-transport-security"]) == (200, f"max-age={YEAR}")
        assert proxy.get("/", X_Forwarded_Proto="http").status == 308
    assert [request.headers["X-Forwarded-Proto"] for request in service.requests] == ["http", "https"]


def test_the_time_of_hsts_is_a_setting_and_the_services_own_stays(
    service: Upstream, folder: Path, context: ssl.SSLContext, tmp_path: Path
) -> None:
    with nginx(tmp_path, service.address, certificates=folder, HSTS_MAX_AGE="0") as proxy:
        for own, sent in (None, "max-age=0"), ("max-age=7", "max-age=7"):
            service.respond = answer(**({"Strict-Transport-Security": own} if own else {}))
            headers = httpx.get(f"https://localhost:{proxy.tls_port}/", verify=context).headers
            assert headers.get_list("strict-transport-security") == [sent]


def test_without_tls_nothing_is_redirected_and_there_is_no_hsts(service: Upstream, tmp_path: Path) -> None:
    with nginx(tmp_path, service.address, HTTPS_PORT="8443", HSTS_MAX_AGE="5") as proxy:
        answered = proxy.get("/.well-known/acme-challenge/x")
        assert (answered.status, answered.text) == (200, "fine")
        assert "strict-transport-security" not in answered.headers
        told = reload(tmp_path)
        assert (told.returncode, told.stdout.split(":")[0]) == (0, "TLS is off here")


def test_a_challenge_of_acmes_is_answered_without_tls_and_nothing_beside_it(
    proxy: Nginx, service: Upstream, tmp_path: Path
) -> None:
    challenges = tmp_path / "acme/.well-known/acme-challenge"
    challenges.mkdir(parents=True)
    (challenges / "token").write_text("token.thumbprint")
    (tmp_path / "acme/account.key").write_text("secret")
    answered = proxy.get("/.well-known/acme-challenge/token")
    assert (answered.status, answered.text, answered.headers["content-type"]) == (200, "token.thumbprint", "text/plain")
    for target in ("none", "../../account.key", "%2e%2e/%2e%2e/account.key"):
        assert proxy.get(f"/.well-known/acme-challenge/{target}").status in (308, 404)
    assert not service.requests


def test_a_missing_certificate_is_named_and_nothing_is_rendered_over(tmp_path: Path) -> None:
    settings = tls(tmp_path, tmp_path / "none", 8443) | {"LISTEN": "127.0.0.1:8080", "UPSTREAM": "127.0.0.1:8000"}
    rendered = render(tmp_path, **settings)
    assert rendered.returncode == 1
    assert rendered.stderr == (
        "TLS is on, but there is no certificate: give it one by ./run certificate (docs/runbook.md).\n"
    )


@pytest.mark.parametrize(("version", "http2"), [("1.22.1", "ssl http2;"), ("1.25.0", "ssl http2;"), ("1.25.1", "ssl;")])
def test_http_2_is_written_as_this_nginx_has_it(version: str, http2: str, folder: Path, tmp_path: Path) -> None:
    stub = tmp_path / "bin/nginx"
    stub.parent.mkdir()
    stub.write_text(f"#!/bin/sh\necho nginx version: nginx/{version} >&2\n")
    stub.chmod(0o755)
    settings = tls(tmp_path, folder, 8443) | {"LISTEN": "127.0.0.1:8080", "UPSTREAM": "127.0.0.1:8000"}
    assert render(tmp_path, **settings, PATH=f"{stub.parent}:{PATH}").returncode == 0
    written = (tmp_path / "rendered/server.conf").read_text()
    assert f"listen 127.0.0.1:8443 {http2}" in written
    assert ("http2 on;" in written) == (http2 == "ssl;")


def asked_by_http_2(proxy: Nginx, context: ssl.SSLContext, headers: list[tuple[bytes, bytes]]) -> bytes | None:
    """Sends these headers, whatever they are; returns the status, or None where the stream was reset."""
    context.set_alpn_protocols(["h2"])
    with connect(proxy, context) as connection:
        client = H2Connection(H2Configuration(validate_outbound_headers=False, normalize_outbound_headers=False))
        client.initiate_connection()
        client.send_headers(1, headers, end_stream=True)
        connection.sendall(client.data_to_send())
        status = None
        while data := connection.recv(65536):
            for event in client.receive_data(data):
                if isinstance(event, ResponseReceived):
                    status = dict(event.headers or [])[b":status"]
                if isinstance(event, StreamEnded | StreamReset):
                    return status
            connection.sendall(client.data_to_send())
    return status


def test_a_line_of_the_access_log_has_its_bound_by_http_2_too(
    folder: Path, context: ssl.SSLContext, tmp_path: Path
) -> None:
    nowhere = [f"127.0.0.{number}:1" for number in range(101, 106)]
    client = b"2001:db8:1111:2222:3333:4444:5555:6666"
    with logging_to_a_pipe(tmp_path, *nowhere, certificates=folder, TRUSTED_BALANCERS="127.0.0.1") as (proxy, log):
        for number, wild in enumerate(WILD):
            sent = {"uri": b"/", "referrer": b"r", "user_agent": b"u", "host": b"h", "method": b"GET", **wild}
            names = {"method": b":method", "uri": b":path", "host": b":authority", "referrer": b"referer"}
            head = [(names[name], sent[name]) for name in names] + [(b"user-agent", sent["user_agent"])]
            more = [(b"x-request-id", b"%0128d" % number), (b"x-forwarded-for", client)]
            asked_by_http_2(proxy, context, [(b":scheme", b"https"), *head, *more])
    assert LONGEST - 500 < max(len(line) for line in log.lines()) <= LONGEST
    assert all(json.loads(line)["client"] for line in log.lines())


@pytest.mark.rehearsal
def test_testssl_has_nothing_to_say_but_of_a_certificate_that_nobody_knows(proxy: Nginx, tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    command = ["testssl", "--quiet", "--warnings", "batch", "--ip", "one", "--jsonfile", str(found)]
    subprocess.run([*command, f"https://localhost:{proxy.tls_port}"], stdin=subprocess.DEVNULL, capture_output=True)
    wrong = {one["id"] for one in json.loads(found.read_text()) if one["severity"] not in {"OK", "INFO", "WARN"}}
    ours = {"cipher_order"}  # that the client chooses, see nginx.conf
    assert {"TLS1_3", "HSTS_time"} <= {one["id"] for one in json.loads(found.read_text())}
    assert {one for one in wrong if not one.startswith("cert_")} - {"DNS_CAArecord"} <= ours


# ---- A new certificate while it serves ----


@dataclass
class Held:
    """Answers when it is let go."""

    go: Event = field(default_factory=Event)
    waiting: int = 0

    def __call__(self, connection: socket.socket, request: Request) -> None:
        self.waiting += 1
        assert self.go.wait(60)
        answer("at last")(connection, request)


def ask(proxy: Nginx, context: ssl.SSLContext, protocol: str) -> bytes:
    """Sends a request by HTTP/1.1 or 2 (h2), and returns all that comes back until nginx closes."""
    context.set_alpn_protocols([protocol])
    sent = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    if protocol == "h2":
        client = H2Connection()
        client.initiate_connection()
        head = {":method": "GET", ":scheme": "https", ":path": "/", ":authority": "x"}
        client.send_headers(1, list(head.items()), end_stream=True)
        sent = client.data_to_send()
    with connect(proxy, context) as connection:
        connection.sendall(sent)
        received = b""
        while data := connection.recv(65536):
            received += data
    return received


@pytest.mark.parametrize("protocol", ["http/1.1", "h2"])
def test_a_reload_serves_the_new_certificate_and_drops_no_request(
    protocol: str, proxy: Nginx, service: Upstream, authority: Authority, tmp_path: Path
) -> None:
    context = believing(authority)
    first = served(proxy, context)
    former = workers_of(tmp_path)
    service.respond = held = Held()
    with ThreadPoolExecutor(10) as threads:
        try:
            long = [threads.submit(ask, proxy, context, protocol) for _ in range(10)]
            wait_until(lambda: held.waiting == len(long))
            store(tmp_path / "certificates", *authority.make("second"))
            told = reload(tmp_path)
            assert (told.returncode, told.stdout) == (0, "nginx loads it now.\n")
            wait_until(lambda: served(proxy, context) != first)
            assert [process for process in former if process.is_running()]
        finally:
            held.go.set()
        assert all(b"at last" in one.result(60) for one in long)
    psutil.wait_procs(former, timeout=30)
    assert not [process for process in former if process.is_running()]


def test_a_bad_certificate_leaves_the_one_that_is_served(
    proxy: Nginx, authority: Authority, folder: Path, context: ssl.SSLContext, tmp_path: Path
) -> None:
    first = served(proxy, context)
    refused = certificate(folder, *authority.make("second", days=-1))
    assert refused.returncode == 1
    assert refused.stderr.endswith("Nothing was changed.\n")
    assert reload(tmp_path).returncode == 0
    assert served(proxy, context) == first
    (folder / "certificate.pem").write_text("overwritten by hand")
    told = reload(tmp_path)
    assert told.returncode == 1
    assert told.stderr.endswith("nginx refuses what is above, and goes on with what it has loaded before.\n")
    assert served(proxy, context) == first
