"""What becomes of connections that clients leave, on Hypercorn itself: no descriptor may stay with the worker."""

import resource
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from harness.databases import Database
from harness.processes import Hypercorn, free_port, stop, wait_until
from service.platform.client_connections import ENOUGH
from tests.conftest import Start

pytestmark = pytest.mark.any_database

REQUEST = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
CLIENTS = 40
LIMIT = 5
"""Seconds within which a worker must have closed; Hypercorn alone takes 75."""


def read(client: socket.socket) -> None:
    client.sendall(REQUEST)
    assert client.recv(65536).startswith(b"HTTP/1.1 200")


def leave_after_an_answer(client: socket.socket) -> None:
    read(client)
    client.close()


def leave_after_several_answers(client: socket.socket) -> None:
    for _ in range(3):
        read(client)
    client.close()


def leave_at_once(client: socket.socket) -> None:
    client.close()


def leave_within_the_head(client: socket.socket) -> None:
    client.sendall(REQUEST[:20])
    client.close()


def leave_within_the_body(client: socket.socket) -> None:
    client.sendall(b"POST /probe/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nabc")
    client.close()


def leave_before_the_answer(client: socket.socket) -> None:
    client.sendall(b"GET /probe/sleep?seconds=0.5 HTTP/1.1\r\nHost: x\r\n\r\n")
    client.close()


def leave_within_the_answer(client: socket.socket) -> None:
    client.sendall(b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n")
    client.recv(100)
    client.close()


def leave_by_a_reset(client: socket.socket) -> None:
    read(client)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def end_the_sending_side(client: socket.socket) -> None:
    read(client)
    client.shutdown(socket.SHUT_WR)


@contextmanager
def connected(server: Hypercorn) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        address = "127.0.0.1", server.port
        yield [stack.enter_context(socket.create_connection(address, timeout=10)) for _ in range(CLIENTS)]


def held(server: Hypercorn) -> int:
    """Returns how many connections to clients the worker has, however far they are closed."""
    (worker,) = server.workers()
    connections = psutil.Process(worker.pid).net_connections("tcp")
    return sum(one.laddr.port == server.port and one.status != psutil.CONN_LISTEN for one in connections)


def test_a_connection_that_its_client_has_left_is_closed(database: Database, start: Start) -> None:
    server = start(app="tests.platform.probe:app", workers=1)
    ways: list[Callable[[socket.socket], None]] = [
        leave_after_an_answer,
        leave_after_several_answers,
        leave_at_once,
        leave_within_the_head,
        leave_within_the_body,
        leave_before_the_answer,
        leave_within_the_answer,
        leave_by_a_reset,
        end_the_sending_side,
    ]
    for leave in ways:
        with connected(server) as clients:
            for client in clients:
                leave(client)
            wait_until(lambda: held(server) == 0, limit=LIMIT, log=server.log)
    assert not server.logged("Traceback")


def test_a_connection_that_its_client_keeps_stays_open(database: Database, start: Start) -> None:
    server = start(app="tests.platform.probe:app", workers=1)
    with connected(server) as clients:
        for client in clients:
            read(client)
        assert held(server) == CLIENTS
        for client in clients:
            read(client)


def test_a_worker_may_open_as_many_files_as_the_system_allows(
    database: Database, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))  # which the service inherits
    try:
        server = start(workers=1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    (worker,) = server.workers()
    assert resource.prlimit(worker.pid, resource.RLIMIT_NOFILE) == (hard, hard)


def test_a_worker_says_that_it_may_open_too_few_files_and_when_it_has_no_more(database: Database, start: Start) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    server = start(app="tests.platform.probe:app", workers=1)
    (worker,) = server.workers()
    assert server.logged("are advised") == (hard != resource.RLIM_INFINITY and hard < ENOUGH)
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (worker.num_fds() + 10, before[1]))
    with ExitStack() as stack:

        def is_said_to_one_more() -> bool:
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=10))
            return server.logged("no file can be opened (Too many open files)")

        wait_until(is_said_to_one_more, limit=LIMIT, log=server.log)
    wait_until(lambda: server.logged("files can be opened again"), limit=LIMIT, log=server.log)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        read(client)


def test_a_low_hard_limit_is_said_at_the_start(database: Database, environment: dict[str, str], tmp_path: Path) -> None:
    script = 'ulimit -n 1000; exec "$@"'
    command = ["bash", "-c", script, "-", sys.executable, "-m", "quart", "--app", "service.asgi:app", "run"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([*command, "--port", str(free_port())], env=environment, stdout=log, stderr=log)
    try:
        wait_until(lambda: "may open 1000 files" in (tmp_path / "log").read_text(), process=process)
    finally:
        stop(process)
