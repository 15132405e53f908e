"""A request's way through service/platform/http_connection.py: all that Quart's own class does must still be true."""

import http.client
import json
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import httpx
import pytest
from itsdangerous import BadSignature, URLSafeTimedSerializer
from quart import Quart, Response, request, request_finished, request_started
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Request, TextMessage

from harness.databases import DatabaseServer, new_database
from harness.processes import Hypercorn, hypercorn, wait_until
from service.platform.http_connection import DISCONNECT_WATCH_DELAY, has_no_body
from tests.conftest import SECRET_KEY, MakeApp

pytestmark = pytest.mark.any_database

IDLE = 2
"""Seconds that Hypercorn waits for a request here."""

REQUESTS = {
    "without a body": b"GET /probe/wait/%b HTTP/1.1\r\nHost: x\r\n\r\n",
    "with an empty body": b"POST /probe/wait/%b?read HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
    "with a body": b"POST /probe/wait/%b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
    "with a body that is read": b"POST /probe/wait/%b?read HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
    "with half a body": b"POST /probe/wait/%b?read HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nabc",
}


@pytest.fixture(scope="module")
def service(
    server: DatabaseServer, plain_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Hypercorn]:
    """One worker with the probe's routes; a body may take long, so that it is not what ends a request."""
    with new_database(server) as database:
        environment = {**plain_environment, **database.environment, "SECRET_KEY": SECRET_KEY, "BODY_TIMEOUT": "15"}
        log = tmp_path_factory.mktemp("connection") / "log"
        options = ["--keep-alive", str(IDLE)]
        with hypercorn(environment, log, app="tests.platform.probe:app", workers=1, options=options) as running:
            yield running


def connect(server: Hypercorn) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


@pytest.mark.parametrize("leaves", ["at once", "soon", "later"])
@pytest.mark.parametrize("kind", REQUESTS)
def test_the_handler_is_cancelled_when_the_client_leaves_before_the_answer(
    service: Hypercorn, kind: str, leaves: str
) -> None:
    if "read" in kind and leaves == "at once" and sys.version_info < (3, 12):
        pytest.skip("asyncio.wait_for, in which Quart reads a body, lost a cancellation that came with the result")
    name = f"{kind}, {leaves}".replace(", ", "-").replace(" ", "-")
    with connect(service) as connection:
        connection.sendall(REQUESTS[kind] % name.encode())
        if leaves != "at once":
            wait_until(lambda: service.logged(f"{name} waits"))
        if leaves == "later":
            time.sleep(DISCONNECT_WATCH_DELAY * 3)
    wait_until(lambda: service.logged(f"{name} is cancelled"), limit=5)


def test_the_handler_is_cancelled_when_the_client_leaves_while_it_streams(service: Hypercorn) -> None:
    with connect(service) as connection:
        connection.sendall(b"GET /probe/stream/left HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200" in connection.recv(65536)
    wait_until(lambda: service.logged("left has ended"), limit=5)


def test_the_parts_of_a_stream_are_sent_as_they_are_made(service: Hypercorn) -> None:
    with httpx.stream("GET", f"{service.url}/probe/stream/read") as answer:
        assert next(answer.iter_text()).startswith("part 0\n")
        assert not service.logged("read has ended")
    whole = httpx.get(f"{service.url}/probe/stream/whole?parts=20")
    assert whole.text == "".join(f"part {number}\n" for number in range(20))


def test_a_stream_that_outlasts_its_time_out_is_ended(service: Hypercorn) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{service.url}/probe/stream/slow?timeout=0.5")
    assert service.logged("slow has ended")


@pytest.mark.parametrize(
    ("headers", "has_none"),
    [
        ([], True),
        ([(b"content-length", b"0")], True),
        ([(b"content-length", b"00")], True),
        ([(b"content-length", b"10")], False),
        ([(b"transfer-encoding", b"chunked")], False),
        ([(b"content-length", b"0"), (b"transfer-encoding", b"chunked")], False),
    ],
)
def test_a_request_whose_length_is_0_has_no_body(headers: list[tuple[bytes, bytes]], has_none: bool) -> None:
    assert has_no_body({"server": ("127.0.0.1", 8000), "http_version": "1.1", "headers": headers}) == has_none


@pytest.mark.parametrize("size", [0, 1, 60_000])
def test_a_body_arrives_whole_whether_its_length_is_told_or_not(service: Hypercorn, size: int) -> None:
    body = bytes(number % 251 for number in range(size))
    assert httpx.post(f"{service.url}/probe/echo", content=body).content == body
    chunks = (body[number : number + 7_000] for number in range(0, size, 7_000))
    assert httpx.post(f"{service.url}/probe/echo", content=chunks).content == body


def test_a_body_arrives_whole_in_several_parts(service: Hypercorn) -> None:
    with connect(service) as connection:
        connection.sendall(b"POST /probe/echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 6\r\n\r\n")
        for part in b"ab", b"cd", b"ef":
            time.sleep(0.2)
            connection.sendall(part)
        assert connection.makefile("rb").read().endswith(b"\r\n\r\nabcdef")


def test_a_view_that_reads_no_body_answers_before_it_has_come(service: Hypercorn) -> None:
    with connect(service) as connection:
        connection.sendall(b"POST /probe/unread HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nabc")
        assert connection.makefile("rb").read().endswith(b"not read")


def test_a_client_that_still_sends_its_body_gets_the_whole_refusal(service: Hypercorn) -> None:
    with connect(service) as connection:
        connection.sendall(b"POST /probe/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n")
        for _ in range(10):
            time.sleep(0.02)  # a reset would come between two parts
            connection.sendall(b"x" * 20_000)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert (answer.status, json.loads(answer.read())["status"]) == (413, 413)


@pytest.mark.parametrize("path", ["/probe/echo", "/probe/parts"])
def test_a_body_without_a_length_takes_no_more_memory_than_its_limit(service: Hypercorn, path: str) -> None:
    assert httpx.post(service.url + path, content=(b"x" * 10_000 for _ in range(6))).status_code == 200
    (worker,) = service.workers()
    before = worker.memory_info().rss
    with connect(service) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head.encode())
        for _ in range(400):
            connection.sendall(b"20000\r\n" + b"x" * 0x20000 + b"\r\n")
        connection.sendall(b"0\r\n\r\n")
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert answer.status == 413
        assert worker.memory_info().rss - before < 20_000_000


def test_headers_that_come_too_slowly_end_the_connection(service: Hypercorn) -> None:
    with connect(service) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        begun = time.monotonic()
        assert connection.makefile("rb").read() == b""
        assert IDLE / 2 < time.monotonic() - begun < IDLE * 3


def test_hundreds_of_silent_clients_and_half_requests_keep_nobody_waiting_and_are_closed(service: Hypercorn) -> None:
    (worker,) = service.workers()
    before = worker.num_fds()
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(service)) for _ in range(600)]
        for client in clients[::3]:
            client.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Half")
        for client in clients[::2]:
            client.sendall(b"GE")
        assert httpx.get(f"{service.url}/livez").text == "alive\n"
        wait_until(lambda: worker.num_fds() <= before + 1, limit=5 * IDLE)
        assert httpx.get(f"{service.url}/livez").text == "alive\n"


def test_head_has_the_headers_and_no_body(service: Hypercorn) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)) as connection:
        for _ in range(2):
            connection.request("HEAD", "/livez")
            answer = connection.getresponse()
            assert (answer.status, answer.headers["content-length"], answer.read()) == (200, "6", b"")


def test_a_connection_is_kept_after_an_error_in_a_view(service: Hypercorn) -> None:
    with httpx.Client(base_url=service.url) as client:
        assert [client.get(path).status_code for path in ("/probe/error", "/nowhere", "/livez")] == [500, 404, 200]


def test_a_view_that_is_not_async_is_run(service: Hypercorn) -> None:
    assert httpx.get(f"{service.url}/probe/plain").text == "not async"


def test_a_hundred_clients_at_once_get_their_own_answers(service: Hypercorn) -> None:
    def ask(number: int) -> tuple[str, str]:
        slept = httpx.get(f"{service.url}/probe/sleep?seconds=0.3", timeout=30).text
        return slept, httpx.post(f"{service.url}/probe/echo", content=str(number), timeout=30).text

    with ThreadPoolExecutor(100) as threads:
        assert list(threads.map(ask, range(100))) == [("slept", str(number)) for number in range(100)]


def test_a_background_task_outlives_its_request(service: Hypercorn) -> None:
    assert httpx.post(f"{service.url}/probe/background/work").status_code == 200
    wait_until(lambda: service.logged("work is done"), limit=5)


def test_a_session_is_kept_in_its_cookie_and_none_is_made_unasked(service: Hypercorn) -> None:
    with httpx.Client(base_url=service.url) as client:
        untouched = client.get("/livez")
        assert not {"set-cookie", "vary"} & set(untouched.headers)
        assert client.post("/probe/session/kept").headers["vary"] == "Cookie"
        assert client.get("/probe/session").text == "kept"
        assert "set-cookie" not in client.get("/livez").headers
        client.delete("/probe/session")
        assert (client.get("/probe/session").text, dict(client.cookies)) == ("None", {})


@pytest.mark.parametrize(("scheme", "attributes"), [("http", set()), ("https", {"Secure"})])
def test_the_cookie_of_a_client_that_came_by_tls_is_for_tls_only(
    scheme: str, attributes: set[str], service: Hypercorn
) -> None:
    forwarded = {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": scheme}
    answer = httpx.post(f"{service.url}/probe/session/kept", headers=forwarded)
    assert {"Secure"} & set(answer.headers["set-cookie"].split("; ")) == attributes


def test_a_session_with_a_wrong_signature_is_not_believed(service: Hypercorn) -> None:
    signed = httpx.post(f"{service.url}/probe/session/kept").cookies["session"]
    assert httpx.get(f"{service.url}/probe/session", cookies={"session": signed}).text == "kept"
    assert httpx.get(f"{service.url}/probe/session", cookies={"session": f"x{signed}"}).text == "None"


def test_a_session_that_a_former_key_signed_is_still_believed(make_app: MakeApp) -> None:
    def serializer(key: str, fallbacks: str = "") -> URLSafeTimedSerializer:
        app = make_app(SECRET_KEY=key, SECRET_KEY_FALLBACKS=fallbacks)
        made = app.session_interface.get_signing_serializer(app)
        assert made
        return made

    former, present = "the former key of all", "the present key of all"
    signed = serializer(former).dumps({"value": "kept"})
    believing = serializer(present, fallbacks=f"an older one of all,{former}")
    assert believing.loads(signed) == {"value": "kept"}
    assert serializer(present).loads(believing.dumps({})) == {}
    with pytest.raises(BadSignature):
        serializer(present).loads(signed)


def test_a_websocket_is_answered(service: Hypercorn) -> None:
    client = WSConnection(ConnectionType.CLIENT)
    with connect(service) as connection:
        connection.sendall(client.send(Request(host="x", target="/probe/websocket")))
        client.receive_data(connection.recv(65536))
        assert isinstance(next(client.events()), AcceptConnection)
        connection.sendall(client.send(TextMessage(data="hello")))
        assert receive_text(client, connection) == "hello"


def receive_text(client: WSConnection, connection: socket.socket) -> str:
    """Returns the next message, which may come after a ping."""
    while True:
        for event in client.events():
            if isinstance(event, TextMessage):
                return str(event.data)
        client.receive_data(connection.recv(65536))


async def test_hooks_signals_and_bodies_of_the_test_client_are_as_with_quart(make_app: MakeApp) -> None:
    app, seen = make_app(), []

    @app.before_request
    async def before() -> None:
        seen.append("before")

    @app.after_request
    def after(response: Response) -> Response:
        seen.append("after")
        return response

    @app.post("/twice")
    async def twice() -> bytes:
        return bytes(await request.data) * 2

    async def started(_: Quart) -> None:
        seen.append("started")

    async def finished(_: Quart, response: Response) -> None:
        seen.append(f"finished {response.status_code}")

    with request_started.connected_to(started, app), request_finished.connected_to(finished, app):
        answer = await app.test_client().post("/twice", data=b"abc")
    assert await answer.get_data() == b"abcabc"
    assert seen == ["started", "before", "after", "finished 200"]
