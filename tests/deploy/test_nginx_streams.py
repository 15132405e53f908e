"""What one's own application may do through nginx: WebSockets, streams of events that are quiet, large uploads."""

import http.client
import json
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, RejectConnection, Request, TextMessage

from harness.databases import DatabaseServer, new_database
from harness.nginx import Nginx, nginx
from harness.processes import Hypercorn, hypercorn, wait_until
from tests.conftest import SECRET_KEY
from tests.platform.test_http_connection import receive_text

pytestmark = [pytest.mark.nginx, pytest.mark.any_database]

READ_TIMEOUT = 1.0
"""Seconds after which nginx gives a quiet answer up that is no stream; 30 outside the tests."""

UPLOAD = 5_000_000
"""Bytes; nginx keeps 64 KiB in memory."""


@pytest.fixture(scope="module")
def service(
    server: DatabaseServer, plain_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Hypercorn]:
    """The probe application, with one worker."""
    with new_database(server) as database:
        environment = {
            **plain_environment,
            **database.environment,
            "SECRET_KEY": SECRET_KEY,
            "MAX_BODY_SIZE": str(UPLOAD),
        }
        log = tmp_path_factory.mktemp("streams") / "log"
        with hypercorn(environment, log, app="tests.platform.probe:app", workers=1) as running:
            yield running


@pytest.fixture(scope="module")
def proxy(service: Hypercorn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    directory = tmp_path_factory.mktemp("nginx")
    quick = {"proxy_read_timeout 30s": f"proxy_read_timeout {READ_TIMEOUT:g}s"}
    with nginx(directory, f"127.0.0.1:{service.port}", edit=quick, MAX_BODY_SIZE=str(UPLOAD)) as running:
        yield running


def handshake(port: int, target: str, *headers: tuple[bytes, bytes]) -> tuple[WSConnection, socket.socket, object]:
    """Returns the client's side, its connection, and the event that is the answer."""
    client = WSConnection(ConnectionType.CLIENT)
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.sendall(client.send(Request(host="example.org", target=target, extra_headers=list(headers))))
    client.receive_data(connection.recv(65536))
    return client, connection, next(client.events())


def test_a_websocket_passes_and_may_be_quiet(proxy: Nginx) -> None:
    client, connection, answered = handshake(proxy.port, "/probe/websocket")
    with connection:
        assert isinstance(answered, AcceptConnection)
        for number in range(3):
            time.sleep(1.5 * READ_TIMEOUT)  # the silence that is meant
            connection.sendall(client.send(TextMessage(data=f"hello {number}")))
            assert receive_text(client, connection) == f"hello {number}"


def test_a_websocket_that_is_refused_costs_no_other_request_anything(proxy: Nginx) -> None:
    for number in range(20):
        _, connection, answered = handshake(proxy.port, "/nowhere")
        connection.close()
        assert isinstance(answered, RejectConnection)
        assert answered.status_code == 404
        assert proxy.get(f"/livez?{number}").status == 200


def test_a_websocket_behind_a_balancer_with_tls_is_one_of_wss(service: Hypercorn, tmp_path: Path) -> None:
    with nginx(tmp_path, f"127.0.0.1:{service.port}", TRUSTED_BALANCERS="127.0.0.1") as proxy:
        headers = (b"X-Forwarded-For", b"192.0.2.7"), (b"X-Forwarded-Proto", b"https")
        client, connection, answered = handshake(proxy.port, "/probe/scheme", *headers)
        with connection:
            assert isinstance(answered, AcceptConnection)
            assert receive_text(client, connection) == "wss 192.0.2.7"


def test_an_upgrade_to_anything_else_is_an_ordinary_request(proxy: Nginx) -> None:
    assert proxy.get("/livez", Upgrade="h2c", Connection="Upgrade, HTTP2-Settings").text == "alive\n"


def test_a_stream_of_events_may_be_quiet_and_comes_part_by_part(proxy: Nginx) -> None:
    seconds = 2 * READ_TIMEOUT
    with (
        httpx.Client(timeout=10) as client,
        client.stream(
            "GET",
            f"http://127.0.0.1:{proxy.port}/probe/quiet?seconds={seconds}",
            headers={"Accept": "text/event-stream"},
        ) as answered,
    ):
        assert list(answered.iter_text()) == ["data: begin\n\n", "data: end\n\n"]


def test_without_a_replica_a_stream_is_refused_as_any_request(tmp_path: Path) -> None:
    with nginx(tmp_path, "127.0.0.1:1") as proxy:
        answered = proxy.get("/", Accept="text/event-stream")
        assert answered.status == 503
        assert answered.headers["retry-after"] == "1"
        assert json.loads(answered.text)["type"] == "/problems/unavailable"
        wait_until(proxy.access_log)
        assert [line for line in proxy.output.read_text().splitlines() if not line.startswith("{")] == []


def test_an_upload_of_the_largest_size_passes(proxy: Nginx) -> None:
    answered = httpx.post(f"http://127.0.0.1:{proxy.port}/probe/body", content=b"x" * UPLOAD, timeout=30)
    assert (answered.status_code, answered.text) == (200, str(UPLOAD))
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=30)
    connection.request("POST", "/probe/parts", (b"x" * 65_536 for _ in range(UPLOAD // 65_536)))
    assert connection.getresponse().read().decode() == str(UPLOAD // 65_536 * 65_536)
    connection.close()


def test_a_replica_that_refuses_costs_a_stream_and_a_websocket_nothing(service: Hypercorn, tmp_path: Path) -> None:
    with nginx(tmp_path, "127.0.0.1:1", f"127.0.0.1:{service.port}") as proxy:
        for _ in range(4):
            assert proxy.get("/probe/quiet", Accept="text/event-stream").text == "data: begin\n\ndata: end\n\n"
            _, connection, answered = handshake(proxy.port, "/probe/websocket")
            connection.close()
            assert isinstance(answered, AcceptConnection)


def test_a_post_that_would_take_events_is_an_ordinary_request(proxy: Nginx) -> None:
    answered = proxy.get(f"/probe/wait/{uuid.uuid4().hex}", "POST", Accept="application/json, text/event-stream")
    assert answered.status == httpx.codes.GATEWAY_TIMEOUT  # after proxy_read_timeout
