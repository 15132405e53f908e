"""The application under uvicorn and granian: what works there, and what does not (the table of docs/ceiling.md).

What differs stands as it is today, so that a test fails, and the table can be corrected, when a server learns it.
"""

import http.client
import re
import signal
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest
from wsproto.events import AcceptConnection, RejectConnection, TextMessage

from benchmarks.suites import granian, uvicorn
from harness.databases import Database, DatabaseServer, new_database
from harness.environments import Stack, running
from harness.processes import Hypercorn, is_ready, wait_until
from service.platform.settings import ROOT
from tests.conftest import SECRET_KEY, MakeTables
from tests.deploy.test_nginx_streams import handshake
from tests.loadtests.other_stacks import check_is_pinned
from tests.platform.test_http_connection import REQUESTS, connect, receive_text
from tests.platform.test_lifecycle import refuses

pytestmark = [pytest.mark.any_database, pytest.mark.native]

SERVERS: dict[str, Callable[..., Stack]] = {"uvicorn": uvicorn, "granian": granian}
PROBE = "tests.platform.probe:app"

QUICK = {"uvicorn": ("--timeout-keep-alive", "1"), "granian": ("--http1-header-read-timeout", "1000")}
"""Options by which a connection may be idle for a second."""

ANOTHER = "127.0.0.2"
"""An address of this machine, from which clients may connect, too."""


@pytest.fixture(scope="module", params=SERVERS)
def name(request: pytest.FixtureRequest) -> str:
    """The name of a server."""
    return str(request.param)


@pytest.fixture(scope="module")
def service(
    name: str,
    server: DatabaseServer,
    make_tables: MakeTables,
    plain_environment: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Hypercorn]:
    """The service with the probe's routes in one worker of that server, for all tests that take no other."""
    with new_database(server) as database:
        make_tables(database)
        settings = {
            **plain_environment,
            **database.environment,
            "SECRET_KEY": SECRET_KEY,
            "BODY_TIMEOUT": "3",
            "MAX_BODY_SIZE": "2000",
            "TRUSTED_PROXIES": ANOTHER,
        }
        with started(SERVERS[name](PROBE, *QUICK[name]), settings, tmp_path_factory.mktemp(name) / "log") as ready:
            yield ready


@contextmanager
def started(stack: Stack, settings: dict[str, str], log: Path, *, workers: int = 1) -> Iterator[Hypercorn]:
    """Starts the server, and waits until all its workers are ready."""
    with running(stack, settings, workers=workers, log=log) as server:
        wait_until(lambda: log.read_text().count('"event": "ready"') == workers, process=server.process, log=log)
        wait_until(lambda: is_ready(server), process=server.process, log=log)
        yield server


def raw(server: Hypercorn, request: bytes, source: str = "127.0.0.1") -> bytes:
    """Sends the bytes from `source`, and returns all that is answered until the server closes."""
    address = "127.0.0.1", server.port
    with closing(socket.create_connection(address, timeout=10, source_address=(source, 0))) as connection:
        connection.sendall(request)
        return connection.makefile("rb").read()


def status(answered: bytes) -> int:
    return int(re.match(rb"HTTP/1\.\d (\d{3})", answered)[1])  # type: ignore[index]


def test_requests_are_answered_and_nothing_is_said_of_hypercorn(name: str, service: Hypercorn) -> None:
    assert httpx.get(f"{service.url}/readyz").text == "ready\n"
    assert httpx.get(f"{service.url}/probe/query?sql=SELECT+7").text == "7"
    assert httpx.get(service.url).text == "<h1>Counter: 1</h1>"
    assert [httpx.get(service.url + path).status_code for path in ("/probe/error", "/nowhere", "/livez")] == [
        500,
        404,
        200,
    ]
    assert not service.logged("shutdown event")


def test_granian_sends_server_and_date_which_nginx_adds_or_replaces(name: str, service: Hypercorn) -> None:
    sent = {"server", "date"} & set(httpx.get(f"{service.url}/livez").headers)
    assert sent == {"uvicorn": set(), "granian": {"server", "date"}}[name]


@pytest.mark.parametrize("header", [b"no colon in this line", b"Content-Length: minus", b"X : y", b"X: a\0b"])
def test_a_malformed_header_is_refused(service: Hypercorn, header: bytes) -> None:
    assert status(raw(service, b"GET /livez HTTP/1.1\r\nHost: x\r\n" + header + b"\r\n\r\n")) == 400


@pytest.mark.parametrize("hosts", [b"", b"Host: x\r\nHost: y\r\n"])
def test_neither_refuses_a_request_with_no_host_or_two_which_hypercorn_does(service: Hypercorn, hosts: bytes) -> None:
    assert status(raw(service, b"GET /livez HTTP/1.1\r\n" + hosts + b"Connection: close\r\n\r\n")) == 200


def test_uvicorn_has_no_limit_for_headers(name: str, service: Hypercorn) -> None:
    request = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: " + b"x" * 100_000 + b"\r\n\r\n"
    assert status(raw(service, request)) == {"uvicorn": 200, "granian": 431}[name]


def test_granian_refuses_more_than_a_hundred_headers(name: str, service: Hypercorn) -> None:
    many = b"".join(b"X-%d: x\r\n" % number for number in range(101))
    request = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + many + b"\r\n"
    assert status(raw(service, request)) == {"uvicorn": 200, "granian": 431}[name]


class Chunks:
    """A body that is sent without its length."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        return (self._body[begin : begin + 700] for begin in range(0, len(self._body), 700))


def test_a_body_arrives_whole_or_is_refused_when_it_is_too_large(service: Hypercorn) -> None:
    for size, answered in (0, 200), (2000, 200), (2001, 413):
        body = b"x" * size
        for content in body, Chunks(body):
            answer = httpx.post(f"{service.url}/probe/echo", content=content)
            assert answer.status_code == answered
            assert answered != httpx.codes.OK or answer.content == body
            assert httpx.post(f"{service.url}/probe/parts", content=content).status_code == answered


def test_a_body_that_does_not_come_is_answered_408(service: Hypercorn) -> None:
    request = b"POST /probe/body HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 9\r\n\r\nx"
    assert status(raw(service, request)) == 408


def test_a_malformed_chunk_changes_nothing_and_granian_answers_it_500(name: str, service: Hypercorn) -> None:
    request = b"POST /probe/echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n"
    assert status(raw(service, request)) == {"uvicorn": 400, "granian": 500}[name]


def test_a_refusal_comes_before_the_body_has_and_granian_then_closes_while_the_client_still_sends(
    name: str, service: Hypercorn
) -> None:
    with connect(service) as connection:
        connection.sendall(b"POST /probe/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" + b"x" * 20_000)
        assert read_status(connection) == 413
        if name == "granian":
            wait_until(lambda: is_reset(connection), limit=5)
            return
        connection.sendall(b"x" * 180_000 + b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_status(connection) == 200


def read_status(connection: socket.socket) -> int:
    """Reads an answer to its end, and returns its status."""
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    answer.read()
    return answer.status


def is_reset(connection: socket.socket) -> bool:
    """Whether sending fails."""
    try:
        connection.sendall(b"x")
    except ConnectionError:
        return True
    return False


def test_the_clients_address_and_scheme_are_believed_from_a_trusted_proxy_only(service: Hypercorn) -> None:
    forwarded = b"X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\n"
    request = b"GET /probe/client HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + forwarded + b"\r\n"
    assert raw(service, request).endswith(b"\r\n\r\nhttp 127.0.0.1")
    assert raw(service, request, ANOTHER).endswith(b"\r\n\r\nhttps 203.0.113.9")


@pytest.mark.parametrize("kind", REQUESTS)
def test_the_handler_is_cancelled_when_the_client_leaves_before_the_answer(service: Hypercorn, kind: str) -> None:
    wait = uuid.uuid4().hex
    with connect(service) as connection:
        connection.sendall(REQUESTS[kind] % wait.encode())
        wait_until(lambda: service.logged(f"{wait} waits"))
    wait_until(lambda: service.logged(f"{wait} is cancelled"), limit=2.5)  # a body that is awaited may take 3 s


def test_a_stream_comes_part_by_part_and_ends_when_its_client_leaves(service: Hypercorn) -> None:
    with connect(service) as connection:
        connection.sendall(b"GET /probe/stream/left HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200" in connection.recv(65536)
        assert not service.logged("left has ended")
    wait_until(lambda: service.logged("left has ended"), limit=5)


def test_a_websocket_is_answered_and_granian_refuses_one_in_its_own_words(name: str, service: Hypercorn) -> None:
    client, connection, answered = handshake(service.port, "/probe/websocket")
    with connection:
        assert isinstance(answered, AcceptConnection)
        connection.sendall(client.send(TextMessage(data="hello")))
        assert receive_text(client, connection) == "hello"
    _, connection, answered = handshake(service.port, "/nowhere")
    connection.close()
    assert isinstance(answered, RejectConnection)
    assert answered.status_code == {"uvicorn": 404, "granian": 403}[name]


def is_closed_within_two_seconds(server: Hypercorn, sent: bytes) -> bool:
    """Whether the server closes a connection that says no more than that, once it is answered."""
    with connect(server) as connection:
        connection.settimeout(2)
        connection.sendall(sent)
        with suppress(TimeoutError):
            while connection.recv(65536):
                pass
            return True
    return False


def test_an_idle_connection_is_closed_and_by_uvicorn_no_half_request_ever(name: str, service: Hypercorn) -> None:
    assert is_closed_within_two_seconds(service, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    half = is_closed_within_two_seconds(service, b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Half")
    assert half == {"uvicorn": False, "granian": True}[name]


def test_requests_in_flight_at_sigterm_are_answered_and_uvicorn_leaves_new_clients_waiting(
    name: str, database: Database, environment: dict[str, str], tmp_path: Path
) -> None:
    settings = {**environment, "REQUEST_TIMEOUT": "5", "DB_STATEMENT_TIMEOUT": "3", "DB_LOCK_TIMEOUT": "2"}
    with started(SERVERS[name](PROBE), settings, tmp_path / "log", workers=2) as server, ExitStack() as stack:

        def ask(path: str) -> http.client.HTTPConnection:
            client = stack.enter_context(closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)))
            client.request("GET", path)
            return client

        begun = [ask("/probe/quiet?seconds=4").getresponse() for _ in range(6)]
        assert [answer.readline() for answer in begun] == [b"data: begin\n"] * 6
        not_begun = ask("/probe/ready-after-sigterm")
        wait_until(lambda: server.logged("waiting for the drain"))
        server.process.send_signal(signal.SIGTERM)
        if name == "granian":
            wait_until(lambda: refuses(server), limit=3.5)
        else:
            wait_until(lambda: is_left_waiting(server), limit=3.5)
        assert server.process.poll() is None
        assert [answer.read() for answer in begun] == [b"\ndata: end\n\n"] * 6
        # Neither tells the application that it stops: draining() stays false, until the request's time is up.
        assert not_begun.getresponse().status == 504
        assert server.process.wait(10) == 0
        wait_until(lambda: not database.processes())
        assert not server.logged("Traceback")
        assert not server.logged("shutdown event")


def is_left_waiting(server: Hypercorn) -> bool:
    """Whether a new client is connected and gets no answer."""
    with connect(server) as connection:
        connection.settimeout(0.5)
        try:
            connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
            connection.recv(65536)
        except TimeoutError:
            return True
        except ConnectionError:  # accepted by a worker that closed it unread
            return False
    return False


RESPAWNING = {"uvicorn": (), "granian": ("--respawn-failed-workers",)}


def test_a_killed_worker_is_replaced_and_workers_whose_master_is_killed_stay(
    name: str, database: Database, environment: dict[str, str], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with started(SERVERS[name](PROBE, *RESPAWNING[name]), environment, log, workers=2) as server:
        killed = psutil.Process(int(httpx.get(f"{server.url}/probe/process").text))
        killed.kill()
        wait_until(lambda: log.read_text().count('"event": "ready"') == 3, process=server.process, log=log)
        server.process.kill()
        server.process.wait()
        assert (
            httpx.get(f"{server.url}/readyz").text == "ready\n"
        )  # of nobody: they hold the port, and are stopped here


def test_granian_ends_when_a_worker_is_killed_unless_it_is_told_to_replace_it(
    database: Database, environment: dict[str, str], tmp_path: Path
) -> None:
    with started(granian(PROBE), environment, tmp_path / "log", workers=2) as server:
        psutil.Process(int(httpx.get(f"{server.url}/probe/process").text)).kill()
        assert server.process.wait(20) == 1
        assert refuses(server)


@pytest.mark.parametrize("name", SERVERS)
def test_a_stop_while_the_workers_start_is_lost_by_granian(
    name: str, database: Database, environment: dict[str, str], tmp_path: Path
) -> None:
    options = {"uvicorn": (), "granian": ("--workers-kill-timeout", "2")}[name]
    with running(SERVERS[name](PROBE, *options), environment, workers=2, log=tmp_path / "log") as server:
        wait_until(lambda: psutil.Process(server.process.pid).children(), process=server.process)
        server.process.terminate()
        server.process.wait(20)
        assert server.logged("after it refused to gracefully stop") == (name == "granian")


MISSING = 'Environment variable "SECRET_KEY" not set'


@pytest.mark.parametrize(("name", "workers"), [("uvicorn", 1), ("granian", 2)])
def test_a_missing_setting_is_one_sentence_and_a_failure(
    name: str, workers: int, environment: dict[str, str], tmp_path: Path
) -> None:
    del environment["SECRET_KEY"]
    log = tmp_path / "log"
    with running(SERVERS[name]("service.asgi:app"), environment, workers=workers, log=log) as server:
        assert server.process.wait(20) == 1
    assert 1 <= log.read_text().count(MISSING) <= workers
    assert "Traceback" not in log.read_text()


def test_several_workers_of_uvicorn_are_started_again_and_again_where_a_setting_is_missing(
    environment: dict[str, str], tmp_path: Path
) -> None:
    del environment["SECRET_KEY"]
    stack, log = uvicorn("service.asgi:app", "--timeout-worker-healthcheck", "1"), tmp_path / "log"
    with running(stack, environment, workers=2, log=log) as server:
        wait_until(lambda: log.read_text().count(MISSING) > 2, process=server.process, log=log)


def test_the_application_has_the_same_versions_as_in_production() -> None:
    check_is_pinned("servers")
    pins = {
        of: set(re.findall(r"^[a-z0-9-]+==\S+", (ROOT / f"requirements/{of}.txt").read_text(), re.MULTILINE))
        for of in ("production", "servers")
    }
    assert pins["production"] <= pins["servers"]
    added = {pin.partition("==")[0] for pin in pins["servers"] - pins["production"]}
    assert added == {"granian", "httptools", "uvicorn"}


@pytest.mark.parametrize("name", SERVERS)
def test_the_document_has_the_command_that_is_measured_and_tested_here(name: str) -> None:
    document = " ".join((ROOT / "docs/ceiling.md").read_text().replace("\\\n", "").split())
    assert " ".join(SERVERS[name]("service.asgi:app").command).format(workers=2, port=8000) in document
