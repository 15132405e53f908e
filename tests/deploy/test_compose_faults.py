import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from harness.compose import Stack, docker, health, inspect, logged
from harness.processes import wait_until

pytestmark = pytest.mark.compose

CLIENTS = 8

PAUSE = 0.01
"""Seconds between two requests of a client."""


@contextmanager
def traffic(stack: Stack) -> Iterator[Counter[int]]:
    """Sends requests from CLIENTS clients, each after its last is answered, until the end of the block.

    Yields how often each status was answered, 0 for a lost connection.
    """
    statuses: Counter[int] = Counter()
    done = threading.Event()

    def send() -> None:
        with httpx.Client(base_url=stack.url, timeout=60) as client:
            while not done.is_set():
                try:
                    statuses[client.get("/livez").status_code] += 1
                except httpx.TransportError:
                    statuses[0] += 1
                done.wait(PAUSE)

    with ThreadPoolExecutor(CLIENTS) as threads:
        clients = [threads.submit(send) for _ in range(CLIENTS)]
        try:
            wait_until(lambda: statuses[200] > CLIENTS)
            yield statuses
        finally:
            done.set()
    for client in clients:
        client.result()


@pytest.fixture(scope="module")
def probe(stack: Stack) -> Iterator[Stack]:
    """The stack with the tests' own views in the service."""
    changed = stack.over("tests/deploy/probe.yml")
    try:
        changed.up()
        yield changed
    finally:
        stack.up()


def test_more_replicas_get_their_share_within_seconds_with_no_edit(stack: Stack) -> None:
    try:
        with traffic(stack) as statuses:
            stack.up("--no-recreate", "--scale", "web=4")
            begin = datetime.now(UTC).replace(microsecond=0)  # a line's time is in whole seconds
            wait_until(lambda: len(upstreams(stack, begin)) == 4, limit=5)
            begin += timedelta(seconds=1 + (datetime.now(UTC) - begin) // timedelta(seconds=1))  # the next second
            wait_until(lambda: datetime.now(UTC) >= begin)
            count = statuses[200]
            wait_until(lambda: statuses[200] > count + 400)
    finally:
        stack.up("--no-recreate")
    shares = upstreams(stack, begin)
    assert min(shares.values()) > sum(shares.values()) * 0.15
    assert set(statuses) == {200}
    assert len(stack.containers("web")) == 2


def upstreams(stack: Stack, begin: datetime) -> Counter[str]:
    """Returns how many requests each replica has answered since then, as far as they are logged: a second later.

    By the time in each line: those that nginx's workers have not written yet come after later ones.
    """
    return Counter(
        line["upstream"].rpartition(" ")[2]
        for line in stack.access_log()
        if datetime.fromisoformat(line["time"]) >= begin
    )


def test_a_killed_replica_costs_at_most_what_it_held_and_comes_back(stack: Stack) -> None:
    victim = stack.containers("web")[0]
    restarts = inspect(victim)["RestartCount"]
    with traffic(stack) as statuses:
        # From inside, since the engine does not restart what it was told to kill. -1: every process there.
        docker("exec", victim, "sh", "-c", "kill -9 -1", check=False)
        wait_until(lambda: inspect(victim)["RestartCount"] == restarts + 1)
        wait_until(lambda: stack.is_ready(victim))
        count = statuses[200]
        wait_until(lambda: statuses[200] > count + 100)
    assert set(statuses) <= {200, 0, 502}
    assert statuses[0] + statuses[502] <= CLIENTS


def test_a_killed_worker_of_a_replica_is_replaced(stack: Stack) -> None:
    victim = stack.containers("web")[0]
    restarts = inspect(victim)["RestartCount"]
    # [n]: or the shell, in whose command line this is, might find and kill itself.
    worker = "for p in /proc/[0-9]*; do grep -q spawn_mai[n] $p/cmdline && kill -9 ${p#/proc/} && break; done"
    with traffic(stack) as statuses:
        docker("exec", victim, "sh", "-c", worker, check=False)  # it may end with the container
        wait_until(lambda: inspect(victim)["RestartCount"] == restarts + 1, limit=60)
        wait_until(lambda: stack.is_ready(victim))
    assert set(statuses) <= {200, 0, 502}
    assert statuses[0] + statuses[502] <= CLIENTS


def test_replicas_get_ready_again_by_themselves_and_up_ends_well_after_their_database_was_away(stack: Stack) -> None:
    (mysql,) = stack.containers("mysql")
    replicas = stack.containers("web")
    docker("stop", mysql)
    assert inspect(mysql)["State"]["ExitCode"] == 0
    assert not any(stack.is_ready(container) for container in replicas)
    assert stack.status("/livez") == 200
    # Its name does not resolve now. Until Docker has seen it three times:
    wait_until(lambda: all(health(one)["Status"] == "unhealthy" for one in replicas), limit=90)
    assert "error 2003" in health(replicas[0])["Log"][-1]["Output"]
    stack.compose("up", "--detach")
    stack.wait_until_ready()
    for container in replicas:
        log = logged(container)
        assert "not ready: The database cannot be used (error 2003)" in log
        assert "Traceback" not in log
        assert "never retrieved" not in log


def test_the_whole_stack_survives_a_restart_of_every_container_at_once(stack: Stack) -> None:
    stack.compose("restart")
    stack.wait_until_ready()
    for service in ("mysql", "web", "nginx"):
        for container in stack.containers(service):
            assert inspect(container)["State"]["ExitCode"] == 0


def test_a_stopped_replica_ends_what_it_holds_within_its_time_and_the_other_takes_over(probe: Stack) -> None:
    replicas = probe.containers("web")
    with ThreadPoolExecutor(11) as threads:
        slow = [threads.submit(probe.status, "/probe/sleep?seconds=4") for _ in range(10)]
        wait_until(lambda: sum(map(asleep, replicas)) == 10)
        stopped = max(replicas, key=asleep)  # nginx may have left one out that refused a moment ago
        stop = threads.submit(docker, "stop", stopped)
        wait_until(lambda: not probe.is_ready(stopped))
        assert [probe.status("/livez") for _ in range(20)] == [200] * 20
        assert [one.result() for one in slow] == [200] * 10
        stop.result()
    assert inspect(stopped)["State"]["ExitCode"] == 0  # not 137, as one that its time had run out for
    docker("start", stopped)
    probe.wait_until_ready()


def asleep(container: str) -> int:
    """Returns how many requests that sleep for four seconds have reached the replica."""
    return logged(container).count("sleeps for 4")


def test_the_service_believes_only_nginx_about_the_client_also_after_nginx_was_replaced(probe: Stack) -> None:
    lie = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"}

    def seen_through_nginx() -> str:
        answer = httpx.get(f"{probe.url}/probe/client", headers=lie)

        def logged() -> set[str]:
            request_id = answer.headers["X-Request-ID"]
            return {line["client"] for line in probe.access_log() if line["request_id"] == request_id}

        wait_until(logged)
        assert {answer.text} == {f"http {client}" for client in logged()}
        return answer.text

    first = seen_through_nginx()
    assert "192.0.2.7" not in first
    one, other = probe.containers("web")
    script = (
        "import sys, urllib.request as r;"
        "q = r.Request(f'http://{sys.argv[1]}:8000/probe/client', headers=eval(sys.argv[2]));"
        "print(r.urlopen(q).read().decode())"
    )
    address = docker("exec", other, "hostname", "-i").split()[0]
    assert "192.0.2.7" not in docker("exec", one, "python", "-c", script, address, str(lie))
    probe.up("--force-recreate", "--no-deps", "nginx")
    assert seen_through_nginx() == first
