"""Locust's scenarios: what they find right, and that they find each fault and say it."""

import re
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from harness.databases import Database
from harness.processes import Hypercorn, hypercorn, wait_until
from service.platform.settings import ROOT
from tests.counter.audit import audit
from tests.loadtests.conftest import FAULTY
from tests.loadtests.locust_runs import ALL, CLASSES, FOLDER, SCENARIOS, kill, load, loading

pytestmark = pytest.mark.any_database


def test_visitors_send_as_many_hits_as_they_were_told_to_and_find_them_right(
    service: Hypercorn, target_database: Database
) -> None:
    before = audit(target_database)
    ended = load("visitors", service.url, "--users", "50", "--spawn-rate", "50", "--hits", "300")
    assert ended.returncode == 0, ended.stdout
    assert "300 different numbers, 0 hits unknown" in ended.stdout
    assert audit(target_database) == before + 302  # the run itself has counted one before and one after


def test_every_scenario_may_be_distributed_over_processes(service: Hypercorn) -> None:
    users = ["--users", "8", "--spawn-rate", "8"]
    ended = load(ALL, service.url, "--processes", "2", "--run-time", "6s", "--every", "1", *users)
    assert ended.returncode == 0, ended.stdout
    assert "PASSED" in ended.stdout
    for name in CLASSES:
        assert re.search(rf"^{name}: [1-9]\d* requests, 0 failures", ended.stdout, re.MULTILINE), ended.stdout


def test_a_counter_that_gives_a_number_twice_fails(faulty: str) -> None:
    ended = load("visitors", f"{faulty}/gives_twice", "--hits", "200")
    assert ended.returncode == 1, ended.stdout
    assert re.search(r"FAILED: a number was given that had been given before \((99|100) times\)", ended.stdout)


@pytest.mark.parametrize("processes", [[], ["--processes", "2"]])
def test_a_counter_that_reads_and_then_writes_fails(faulty: str, processes: list[str]) -> None:
    ended = load("visitors", f"{faulty}/reads_then_writes", "--hits", "100", *processes)
    assert ended.returncode == 1, ended.stdout
    assert "FAILED: a number was given that had been given before" in ended.stdout


def test_a_counter_that_takes_a_second_for_each_answer_fails(faulty: str) -> None:
    options = ["--run-time", "4s", "--thresholds", "loadtests/thresholds.toml"]
    ended = load("visitors", f"{faulty}/answers_after_a_second", *options)
    assert ended.returncode == 1, ended.stdout
    assert re.search(r"FAILED: Visitors's p50 was 1\d\d\d ms, more than 500", ended.stdout), ended.stdout
    assert "FAILED: Visitors had " in ended.stdout


def test_a_counter_that_answers_before_the_commit_and_is_killed_fails(
    plain_environment: dict[str, str], tmp_path: Path
) -> None:
    app, log = f"{FAULTY}:answers_before_the_commit()", tmp_path / "locust.log"
    environment = {**plain_environment, "COUNT_FILE": str(tmp_path / "count")}
    with (
        hypercorn(environment, tmp_path / "log", app=app, workers=1) as first,
        loading("visitors", first.url, log=log) as locust,
    ):
        wait_until(lambda: number(first) > 200, process=locust, log=log)
        kill(first)
        with hypercorn(environment, tmp_path / "again.log", app=app, workers=1, port=first.port) as again:
            before = number(again)
            wait_until(lambda: number(again) > before + 200, process=locust, log=log)
            locust.send_signal(signal.SIGINT)
            assert locust.wait(60) == 1, log.read_text()
    assert "FAILED: a number was given that had been given before" in log.read_text()


def number(server: Hypercorn) -> int:
    """Counts one, and returns its number."""
    return int(re.findall(r"\d+", httpx.get(server.url).text.removeprefix("<h1>"))[0])


@pytest.mark.parametrize(
    ("scenario", "violations"),
    [
        (
            "api_clients",
            [
                "the same key was given another number",
                "a number was not higher than one that was known before the request was sent",
            ],
        ),
        ("readers_and_hitters", ["a counter was read at less than a number that it had given"]),
    ],
)
def test_each_promise_that_is_broken_is_found(faulty: str, scenario: str, violations: list[str]) -> None:
    ended = load(scenario, f"{faulty}/breaks_promises", "--run-time", "3s")
    assert ended.returncode == 1, ended.stdout
    for violation in violations:
        assert f"FAILED: {violation} (" in ended.stdout, ended.stdout


def test_a_service_that_refuses_everything_does_not_hold_the_thresholds_of_the_overload(faulty: str) -> None:
    options = ["--run-time", "2s", "--thresholds", "loadtests/thresholds.toml"]
    ended = load("overload", f"{faulty}/refuses", *options)
    assert ended.returncode == 1, ended.stdout
    assert "FAILED: Overload sent no request" in ended.stdout, ended.stdout
    assert re.search(r"^Overload: 0 requests, .* and [1-9]\d+ refused$", ended.stdout, re.MULTILINE)


@pytest.fixture
def closes_after_reading() -> Iterator[tuple[int, list[bytes]]]:
    """A server that answers the first two requests, and then reads each and closes its connection."""
    requests: list[bytes] = []
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 19\r\n\r\n<h1>Counter: %d</h1>"

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                while data := connection.recv(65536):
                    requests.append(data)
                    if len(requests) > 3:
                        break
                    connection.sendall(answer % len(requests))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield listener.getsockname()[1], requests
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_a_hit_whose_connection_is_lost_is_not_sent_again(closes_after_reading: tuple[int, list[bytes]]) -> None:
    port, requests = closes_after_reading
    ended = load("visitors", f"http://127.0.0.1:{port}", "--hits", "2", "--users", "1")
    assert ended.returncode == 1
    assert "1 different numbers, 1 hits unknown" in ended.stdout, ended.stdout
    # One for /livez and one before the run, the two hits, and one after the run.
    assert len(requests) == 5


def test_every_scenario_is_one_class_that_says_what_it_shows() -> None:
    for name, expected in zip(SCENARIOS, CLASSES, strict=True):
        source = (ROOT / FOLDER / f"{name}.py").read_text()
        assert re.findall(r"^class (\w+)\(Hitter\):\n    \"\"\"", source, re.MULTILINE) == [expected]
        assert source.startswith('"""')
