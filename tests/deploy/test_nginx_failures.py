import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from harness.nginx import Request, Upstream, answer, die, nginx, say_nothing, upstream
from harness.processes import free_port, wait_until

pytestmark = pytest.mark.nginx

QUICK = {"proxy_read_timeout 30s": "proxy_read_timeout 1s"}
REFUSES = "127.0.0.1:1"


@pytest.fixture
def service() -> Iterator[Upstream]:
    with upstream() as running:
        yield running


@contextmanager
def stuck() -> Iterator[str]:
    """The address of a server whose queue of connections is full, so that no more can be made."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(2):
            waiting = stack.enter_context(closing(socket.socket()))
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_server_that_refuses_costs_no_client_anything(method: str, service: Upstream, tmp_path: Path) -> None:
    with nginx(tmp_path, REFUSES, service.address) as proxy:
        answers = [proxy.get(f"/{i}", method, f"body {i}", X_Request_ID=f"id-{i}") for i in range(20)]
        wait_until(lambda: len(proxy.access_log()) == 20)
        assert any(REFUSES in str(line["upstream"]) for line in proxy.access_log())
    assert [answered.status for answered in answers] == [200] * 20
    assert [answered.headers["x-request-id"] for answered in answers] == [f"id-{i}" for i in range(20)]
    assert [(request.method, request.target, request.body) for request in service.requests] == [
        (method, f"/{i}", f"body {i}".encode()) for i in range(20)
    ]


def test_a_server_that_cannot_be_connected_to_in_time_costs_no_client_anything(
    service: Upstream, tmp_path: Path
) -> None:
    with stuck() as address, nginx(tmp_path, address, service.address) as proxy:
        assert [proxy.get().status for _ in range(3)] == [200] * 3
        wait_until(lambda: len(proxy.access_log()) == 3)
        assert any(address in str(line["upstream"]) for line in proxy.access_log())
    assert len(service.requests) == 3


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(("fault", "status"), [(die, 502), (say_nothing, 504)])
def test_what_may_have_reached_a_server_is_not_sent_again(
    fault: object, status: int, method: str, service: Upstream, tmp_path: Path
) -> None:
    with upstream(fault) as faulty, nginx(tmp_path, faulty.address, service.address, edit=QUICK) as proxy:  # type: ignore[arg-type]
        answers = [proxy.get(f"/{i}", method, "body", Accept="application/json") for i in range(4)]
        assert len(faulty.requests) + len(service.requests) == 4
        assert len(faulty.requests) == [answered.status for answered in answers].count(status) >= 1
    failed = next(answered for answered in answers if answered.status != 200)
    assert failed.status == status
    assert failed.headers["content-type"] == "application/problem+json"
    assert "Whether the request took effect is not known." in failed.text
    assert "retry-after" not in failed.headers


def test_a_server_that_dies_on_a_kept_connection_is_not_asked_again(service: Upstream, tmp_path: Path) -> None:
    with nginx(tmp_path, service.address) as proxy:
        # Once more than there are worker processes, so that one of them has a connection to keep.
        wait_until(lambda: proxy.get().status == 200 and len(service.requests) > service.connections)
        service.respond = die
        before = len(service.requests)
        connections = service.connections
        answered = [proxy.get().status for _ in range(4)]
        assert answered == [502] * 4
        assert len(service.requests) == before + 4
        assert service.connections < connections + 4


def test_no_server_at_all_is_said_to_have_done_nothing_and_to_be_tried_again(tmp_path: Path) -> None:
    with nginx(tmp_path, REFUSES, f"127.0.0.1:{free_port()}") as proxy:
        for _ in range(5):
            answered = proxy.get(method="POST", Accept="application/json")
            assert answered.status == 503
            assert answered.headers["retry-after"] == "1"
            assert "not carried out" in answered.text


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_server_that_refused_a_moment_ago_is_asked_where_all_others_refuse(method: str, tmp_path: Path) -> None:
    ports = [free_port() for _ in range(6)]
    with nginx(tmp_path, *(f"127.0.0.1:{port}" for port in ports)) as proxy:
        for port in ports:
            assert proxy.get().status == 503  # nginx has been refused by each a moment ago, also in its last tries
            with upstream(port=port) as back:
                assert proxy.get("/", method, "body").status == 200
                assert [request.body for request in back.requests] == [b"body"]


def test_no_request_depends_on_those_by_which_nginx_sees_whether_a_server_is_back(tmp_path: Path) -> None:
    port, is_over = free_port(), threading.Event()

    def answer_late(connection: socket.socket, request: Request) -> None:
        assert request.target != "/late" or is_over.wait(60)
        answer()(connection, request)

    with nginx(tmp_path, f"127.0.0.1:{port}", REFUSES) as proxy, ThreadPoolExecutor(2) as threads:
        assert proxy.get().status == 503
        with upstream(answer_late, port) as back:
            late = [threads.submit(wait_until, lambda: proxy.get("/late").status == 200) for _ in range(2)]
            try:
                wait_until(lambda: len(back.requests) == 2)
                assert [proxy.get().status for _ in range(20)] == [200] * 20
            finally:
                is_over.set()
            assert [one.result() for one in late] == [None, None]


def test_a_server_that_comes_back_is_used_within_seconds(service: Upstream, tmp_path: Path) -> None:
    port = free_port()
    with nginx(tmp_path, f"127.0.0.1:{port}", service.address) as proxy:
        assert [proxy.get().status for _ in range(4)] == [200] * 4
        with upstream(port=port) as back:
            wait_until(lambda: proxy.get().status == 200 and back.requests, limit=3)
