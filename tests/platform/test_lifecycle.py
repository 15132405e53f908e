import http.client
import os
import signal
import socket
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from harness.databases import Database
from harness.processes import Hypercorn, free_port, hypercorn, is_ready, wait_until
from tests.conftest import MakeTables, Start

pytestmark = pytest.mark.any_database


@contextmanager
def slow_requests(server: Hypercorn, count: int) -> Iterator[list[http.client.HTTPConnection]]:
    """Sends `count` requests that take two seconds, each on its own connection; waits until they are accepted."""
    with ExitStack() as stack:
        connections = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=20) for _ in range(count)]
        for connection in connections:
            stack.enter_context(closing(connection))
            connection.request("GET", "/probe/sleep?seconds=2")
        wait_until(lambda: established(server) == count)
        yield connections


def established(server: Hypercorn) -> int:
    """Returns how many connections the workers have accepted and not closed."""
    return sum(
        connection.status == psutil.CONN_ESTABLISHED and connection.laddr.port == server.port
        for worker in server.workers()
        for connection in worker.net_connections("tcp")
    )


def refuses(server: Hypercorn) -> bool:
    try:
        httpx.get(f"{server.url}/livez")
    except httpx.ConnectError:
        return True
    except (httpx.ReadError, httpx.RemoteProtocolError):  # closed before it was accepted, or before it was read
        return False
    return False


@pytest.mark.parametrize("receivers", ["the master", "all processes"])
def test_requests_in_flight_at_sigterm_end_well_and_new_ones_are_refused(
    database: Database, start: Start, receivers: str
) -> None:
    server = start(app="tests.platform.probe:app", workers=3)
    with slow_requests(server, 12) as connections:
        for process in [*server.workers(), psutil.Process(server.process.pid)]:
            if receivers == "all processes" or process.pid == server.process.pid:
                process.send_signal(signal.SIGTERM)
        wait_until(lambda: refuses(server), limit=1.5)
        assert server.process.poll() is None
        assert [connection.getresponse().status for connection in connections] == [200] * 12
    assert server.process.wait(60) == 0
    assert not server.logged("Traceback")


def test_connections_that_are_kept_alive_are_served_for_the_delay_and_told_to_close(
    database: Database, start: Start
) -> None:
    server = start(workers=2, SHUTDOWN_DELAY=3)
    with httpx.Client(base_url=server.url) as used, httpx.Client(base_url=server.url) as idle:
        for client in (used, idle):
            assert "Connection" not in client.get("/livez").headers
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: refuses(server), limit=1.5)
        wait_until(lambda: used.get("/livez").headers.get("Connection") == "close", limit=1.5)  # each when it looks
        with pytest.raises(httpx.ConnectError):
            used.get("/livez")
        wait_until(lambda: established(server) == 1)
        assert server.process.poll() is None
        assert server.process.wait(60) == 0


def test_each_connection_is_served_or_refused_however_many_begin_while_the_workers_leave(
    database: Database, start: Start
) -> None:
    server = start(workers=3)
    ended: defaultdict[str, int] = defaultdict(int)

    def connect_until_refused() -> None:
        while not ended["refused"]:
            try:
                with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
                    client.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    ended[client.recv(12).decode()] += 1
            except ConnectionRefusedError:
                ended["refused"] += 1
            except ConnectionError as error:
                ended[type(error).__name__] += 1

    with ThreadPoolExecutor(32) as threads:
        clients = [threads.submit(connect_until_refused) for _ in range(32)]
        wait_until(lambda: ended["HTTP/1.1 200"] > 200)
        server.process.send_signal(signal.SIGTERM)
        for client in clients:
            client.result()
    assert set(ended) == {"HTTP/1.1 200", "refused"}
    assert server.process.wait(60) == 0
    assert not server.logged("Traceback")


@pytest.fixture
def not_ready(empty_database: Database, environment: dict[str, str], tmp_path: Path) -> Iterator[tuple[Hypercorn, int]]:
    """A server whose database has no tables yet, and a second port of it, to which other hosts may connect."""
    port = free_port()
    with hypercorn(environment, tmp_path / "log", workers=1, options=["--bind", f"0.0.0.0:{port}"]) as server:
        yield server, port


def connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def test_other_hosts_are_refused_until_a_worker_is_ready_and_not_when_it_no_longer_is(
    not_ready: tuple[Hypercorn, int], empty_database: Database, make_tables: MakeTables
) -> None:
    server, port = not_ready
    assert "revision none" in httpx.get(f"{server.url}/readyz").json()["detail"]
    assert not connects(port)
    make_tables(empty_database)
    wait_until(lambda: connects(port))
    wait_until(lambda: is_ready(server))
    empty_database.execute("DROP TABLE alembic_version")
    wait_until(lambda: not is_ready(server))
    assert httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 503


def test_a_worker_that_never_was_ready_leaves_in_order(not_ready: tuple[Hypercorn, int]) -> None:
    server, _ = not_ready
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(60) == 0
    assert not server.logged("Traceback")


def test_a_worker_that_finds_no_shutdown_event_says_so(database: Database, start: Start) -> None:
    server = start(app="tests.platform.without_shutdown_event:app", workers=1)
    wait_until(lambda: server.logged("no shutdown event"))


def test_workers_end_their_requests_and_leave_when_the_master_is_killed(database: Database, start: Start) -> None:
    server = start(app="tests.platform.probe:app", workers=2)
    workers = server.workers()
    with slow_requests(server, 6) as connections:
        server.process.kill()
        assert [connection.getresponse().status for connection in connections] == [200] * 6
    assert not psutil.wait_procs(workers, timeout=10)[1]
    assert refuses(server)


def test_a_request_that_outlasts_its_time_out_is_ended_by_then_also_in_a_drain(
    database: Database, start: Start
) -> None:
    server = start(app="tests.platform.probe:app", REQUEST_TIMEOUT=1.5, DB_STATEMENT_TIMEOUT=1.2, DB_LOCK_TIMEOUT=1)
    with slow_requests(server, 1) as (connection,):
        server.process.send_signal(signal.SIGTERM)
        assert connection.getresponse().status == 504
    assert server.process.wait(60) == 0


def test_the_pool_is_closed_when_the_worker_leaves(database: Database, start: Start) -> None:
    aborted = database.server.execute("SHOW GLOBAL STATUS LIKE 'Aborted_clients'")
    server = start(app="tests.platform.probe:app", workers=1)
    with ThreadPoolExecutor(5) as threads:
        list(threads.map(lambda _: httpx.get(f"{server.url}/probe/query?sql=SELECT+1"), range(20)))
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(60) == 0
    wait_until(lambda: not database.processes())
    assert database.server.execute("SHOW GLOBAL STATUS LIKE 'Aborted_clients'") == aborted
    assert not server.logged("garbage collector")


def test_a_worker_is_not_stopped_by_another_that_has_the_events_lock(database: Database, start: Start) -> None:
    server = start(app="tests.platform.probe:app", workers=2)

    def answer(what: str, seconds: float) -> str:
        return httpx.get(f"{server.url}/probe/{what}?seconds={seconds}", timeout=30).text

    with ThreadPoolExecutor(9) as threads:
        holder = threads.submit(answer, "lock", 8)
        others: set[str] = set()
        while len(others) < 2 and not holder.done():
            others.update(threads.map(answer, ["process"] * 8, [0.5] * 8))  # for several looks at the event each
        assert not holder.done(), "the other worker answered only when the lock was let go"
    assert holder.result() in others


def test_a_killed_worker_ends_the_server_so_that_its_supervisor_starts_it_anew(
    database: Database, start: Start
) -> None:
    server = start(workers=2)
    os.kill(server.workers()[0].pid, signal.SIGKILL)
    server.process.wait(60)
    assert refuses(server)


def test_sighup_ends_it_with_the_reason_since_its_sockets_cannot_be_used_again(
    database: Database, start: Start
) -> None:
    server = start(workers=2)
    server.process.send_signal(signal.SIGHUP)
    server.process.wait(60)
    assert server.logged("which cannot be: start it anew")
