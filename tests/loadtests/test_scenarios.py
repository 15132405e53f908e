"""Locust's scenarios: what they find right, and that they find out what is wrong, and say it."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from harness.databases import Database
from harness.processes import Hypercorn, free_port, hypercorn, wait_until
from service.platform.settings import ROOT
from tests.conftest import Start
from tests.counter.audit import audit
from tests.loadtests.locust_runs import SCENARIOS, command, load, loading

FAULTY = "tests.loadtests.faulty_counters"

pytestmark = pytest.mark.any_database


@pytest.fixture
def service(database: Database, start: Start) -> Hypercorn:
    return start(API_TOKENS_REQUIRED="false")


def given(printed: str) -> int:
    """Returns how many different numbers a run was given."""
    (found,) = re.findall(r"^(\d+) different numbers", printed, re.MULTILINE)
    return int(found)


def test_visitors_send_as_many_hits_as_they_were_told_to_and_find_them_right(
    service: Hypercorn, database: Database
) -> None:
    ended = load("visitors", service.url, "--users", "50", "--spawn-rate", "50", "--hits", "1000")
    assert ended.returncode == 0, ended.stdout
    assert "1000 different numbers, 0 hits unknown" in ended.stdout
    assert audit(database) == 1002  # the run itself has counted one before and one after


@pytest.mark.parametrize(
    ("scenario", "end"),
    [
        ("visitors", "--run-time=2s"),
        ("visitors", "--hits=50"),
        ("api_clients", "--run-time=2s"),
        ("many_counters", "--run-time=2s"),
        ("overload", "--run-time=2s"),
    ],
)
def test_a_run_may_be_distributed_over_processes(scenario: str, end: str, service: Hypercorn) -> None:
    ended = load(scenario, service.url, "--processes", "2", end)
    assert ended.returncode == 0, ended.stdout
    assert given(ended.stdout) > 20
    assert "PASSED" in ended.stdout


def test_a_counter_that_gives_a_number_twice_fails(plain_environment: dict[str, str], tmp_path: Path) -> None:
    with hypercorn(plain_environment, tmp_path / "log", app=f"{FAULTY}:gives_twice()", workers=1) as liar:
        ended = load("visitors", liar.url, "--hits", "200")
    assert ended.returncode == 1, ended.stdout
    assert re.search(r"FAILED: a number was given that had been given before \((99|100) times\)", ended.stdout)


@pytest.mark.parametrize("processes", [[], ["--processes", "2"]])
def test_a_counter_that_reads_and_then_writes_fails(database: Database, start: Start, processes: list[str]) -> None:
    liar = start(app=f"{FAULTY}:reads_then_writes()")
    ended = load("visitors", liar.url, "--run-time", "3s", *processes)
    assert ended.returncode == 1, ended.stdout
    assert "FAILED: a number was given that had been given before" in ended.stdout


def test_a_counter_that_takes_a_second_for_each_answer_fails(plain_environment: dict[str, str], tmp_path: Path) -> None:
    app = f"{FAULTY}:answers_after_a_second()"
    with hypercorn(plain_environment, tmp_path / "log", app=app, workers=1) as slow:
        ended = load("visitors", slow.url, "--run-time", "4s", "--thresholds", "loadtests/thresholds.toml")
    assert ended.returncode == 1, ended.stdout
    assert re.search(r"FAILED: Visitors's p50 was 10\d\d ms, more than 500", ended.stdout), ended.stdout
    assert "FAILED: Visitors had " in ended.stdout


def test_a_counter_that_answers_before_the_commit_and_is_killed_fails(
    database: Database, start: Start, environment: dict[str, str], tmp_path: Path
) -> None:
    app = f"{FAULTY}:answers_before_the_commit()"
    liar = start(app=app, workers=1)
    log = tmp_path / "locust.log"
    with loading("visitors", liar.url, "--run-time", "60s", log=log) as locust:
        wait_until(lambda: number(liar) > 500, process=locust, log=log)
        for child in psutil.Process(liar.process.pid).children(recursive=True):
            child.kill()
        liar.process.kill()
        liar.process.wait()
        with hypercorn(environment, tmp_path / "again.log", app=app, workers=1, port=liar.port) as again:
            before = number(again)
            wait_until(lambda: number(again) > before + 500, process=locust, log=log)
            locust.send_signal(signal.SIGINT)
            assert locust.wait(60) == 1, log.read_text()
    assert "FAILED: a number was given that had been given before" in log.read_text()


def number(server: Hypercorn) -> int:
    return int(re.findall(r"\d+", httpx.get(server.url).text.removeprefix("<h1>"))[0])


@pytest.mark.parametrize(
    ("scenario", "wrong"),
    [
        ("api_clients", "the same key was given another number"),
        ("api_clients", "a number was not higher than one that was known before the request was sent"),
        ("readers_and_hitters", "a counter was read at less than a number that it had given"),
    ],
)
def test_each_promise_that_is_broken_is_found(
    plain_environment: dict[str, str], tmp_path: Path, scenario: str, wrong: str
) -> None:
    with hypercorn(plain_environment, tmp_path / "log", app=f"{FAULTY}:breaks_promises()", workers=1) as liar:
        ended = load(scenario, liar.url, "--run-time", "3s")
    assert ended.returncode == 1, ended.stdout
    assert f"FAILED: {wrong} (" in ended.stdout, ended.stdout


def test_a_service_that_refuses_everything_does_not_hold_the_thresholds_of_the_overload(
    plain_environment: dict[str, str], tmp_path: Path
) -> None:
    with hypercorn(plain_environment, tmp_path / "log", app=f"{FAULTY}:refuses()", workers=1) as refusing:
        ended = load("overload", refusing.url, "--run-time", "2s", "--thresholds", "loadtests/thresholds.toml")
    assert ended.returncode == 1, ended.stdout
    assert "FAILED: Overload sent no request" in ended.stdout, ended.stdout
    assert re.search(r"^Overload: 0 requests, .* and [1-9]\d+ refused$", ended.stdout, re.MULTILINE)


@pytest.mark.parametrize("processes", [[], ["--processes", "2"]])
def test_a_run_that_ends_before_it_could_begin_fails(
    plain_environment: dict[str, str], tmp_path: Path, processes: list[str]
) -> None:
    with hypercorn(plain_environment, tmp_path / "log", app=f"{FAULTY}:says_nothing()", workers=1) as mute:
        ended = load("visitors", mute.url, "--run-time", "2s", *processes)
    assert ended.returncode == 1, ended.stdout
    assert "PASSED" not in ended.stdout


def test_a_worker_of_locusts_that_is_lost_fails_the_run(service: Hypercorn, tmp_path: Path) -> None:
    log = tmp_path / "locust.log"
    with loading("visitors", service.url, "--processes", "2", "--run-time", "8s", log=log) as locust:
        wait_until(lambda: number(service) > 100, process=locust, log=log)
        psutil.Process(locust.pid).children()[0].kill()
        assert locust.wait(90) == 1, log.read_text()
    assert "FAILED: 1 Locust workers were lost, and what they knew with them" in log.read_text()


@pytest.mark.parametrize("processes", [[], ["--processes", "2"]])
def test_ctrl_c_ends_a_run_with_its_verdict(
    service: Hypercorn, database: Database, tmp_path: Path, processes: list[str]
) -> None:
    log = tmp_path / "locust.log"
    with loading("visitors", service.url, *processes, log=log) as locust:
        wait_until(lambda: database.execute("SELECT count FROM counter")[0][0] > 500, process=locust, log=log)
        os.killpg(locust.pid, signal.SIGINT)  # as a terminal does
        assert locust.wait(60) == 0, log.read_text()
    assert "PASSED" in log.read_text()


def test_a_target_that_does_not_answer_is_told_before_the_run() -> None:
    ended = load("visitors", f"http://127.0.0.1:{free_port()}", "--run-time", "60s")
    assert ended.returncode == 1, ended.stdout
    assert "does not answer (ConnectionError): start it (./run up, or docker-compose" in ended.stdout


def test_a_target_that_is_not_ready_is_told_with_its_reason(start: Start) -> None:
    not_ready = start(ready=False, DB_PORT=free_port(), DB_POOL_TIMEOUT=1)
    ended = load("visitors", not_ready.url, "--run-time", "60s")
    assert ended.returncode == 1, ended.stdout
    assert "FAILED: the run could not begin: GET / was answered 503: " in ended.stdout


def test_a_target_that_dies_in_the_middle_ends_the_run(service: Hypercorn, tmp_path: Path) -> None:
    log = tmp_path / "locust.log"
    with loading("visitors", service.url, "--run-time", "100s", log=log) as locust:
        wait_until(lambda: number(service) > 100, process=locust, log=log)
        service.process.kill()
        assert locust.wait(60) == 1
    assert "FAILED: no request was answered well for 10 s" in log.read_text()


def test_an_api_that_asks_for_a_token_says_so_before_the_run(database: Database, start: Start) -> None:
    ended = load("api_clients", start(API_TOKENS_REQUIRED="true").url, "--run-time", "60s")
    assert ended.returncode == 1, ended.stdout
    assert (
        "this scenario needs a token with the scopes count and manage: make one by `./run tokens make" in ended.stdout
    )


def test_more_users_than_file_descriptors_are_refused_with_what_to_do(service: Hypercorn) -> None:
    run = command("visitors", service.url, "--users", "500", "--spawn-rate", "500", "--run-time", "60s")
    ended = subprocess.run(["bash", "-c", 'ulimit -n 300; exec "$@"', "-", *run], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "500 users need 600 file descriptors, and this process may have 300: raise the limit" in ended.stdout


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


def test_locusts_page_offers_every_scenario_and_each_run_has_a_verdict(service: Hypercorn, tmp_path: Path) -> None:
    page = f"http://127.0.0.1:{(port := free_port())}"
    locustfiles = ["-f", "loadtests/scenarios", "--class-picker", "--web-host", "127.0.0.1", "--web-port", str(port)]
    log = tmp_path / "locust.log"
    with log.open("wb") as file:
        command = [sys.executable, "-m", "locust", *locustfiles, "--host", service.url]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        wait_until(lambda: "Starting web interface" in log.read_text(), process=process, log=log)
        wait_until(lambda: answers(page), process=process, log=log)
        names = {"".join(word.title() for word in name.split("_")) for name in SCENARIOS}
        assert all(name in httpx.get(page).text for name in names)
        for scenario in "Visitors", "Burst":
            form = {"user_count": 5, "spawn_rate": 5, "user_classes": scenario, "host": service.url}
            started = httpx.post(f"{page}/swarm", data=form)
            assert started.json()["success"], started.text
            before = number(service)
            wait_until(lambda before=before: number(service) > before + 10, process=process, log=log)  # type: ignore[misc]
            assert httpx.post(f"{page}/stop", timeout=60).is_success
            wait_until(lambda name=scenario: f"\n{name}: " in log.read_text(), process=process, log=log)  # type: ignore[misc]
    finally:
        process.kill()
        process.wait()
    # This test has counted too, which each run must notice, and the second does not know of the first.
    assert log.read_text().count("FAILED: the page's counter: it went up by") == 2


def answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


def test_a_port_in_use_is_told(service: Hypercorn) -> None:
    options = ["--web-host", "127.0.0.1", "--web-port", str(service.port)]
    command = [sys.executable, "-m", "locust", "-f", "loadtests/scenarios", "--host", service.url, *options]
    ended = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert ended.returncode != 0
    assert "Address already in use" in ended.stderr, ended.stderr


def test_every_scenario_is_one_class_that_says_what_it_shows() -> None:
    for name, path in SCENARIOS.items():
        source = path.read_text()
        assert re.findall(r"^class (\w+)\(Hitter\):\n    \"\"\"", source, re.MULTILINE) == [
            "".join(word.title() for word in name.split("_"))
        ]
        assert source.startswith('"""')
