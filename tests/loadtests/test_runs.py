"""A run of Locust's: how it begins and ends, in one process and in several, and what it says where it cannot."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from harness.processes import free_port, hypercorn, wait_until
from service.platform.settings import ROOT
from tests.loadtests.conftest import FAULTY
from tests.loadtests.locust_runs import CLASSES, FOLDER, command, kill, load, loading, value


def test_each_process_of_a_distributed_run_sends_as_many_hits_as_it_was_told_to(right: str) -> None:
    ended = load("visitors", right, "--processes", "2", "--hits", "50")
    assert ended.returncode == 0, ended.stdout
    assert "\n100 different numbers, 0 hits unknown" in ended.stdout


@pytest.mark.parametrize("processes", [[], ["--processes", "2"]])
def test_a_run_that_is_ended_before_it_could_begin_fails(faulty: str, tmp_path: Path, processes: list[str]) -> None:
    silent, log = f"{faulty}/says_nothing", tmp_path / "locust.log"
    before = value(silent)
    with loading("visitors", silent, "--run-time", "60s", *processes, log=log) as locust:
        wait_until(lambda: value(silent) > before, process=locust, log=log)
        os.killpg(locust.pid, signal.SIGINT)
        assert locust.wait(60) == 1, log.read_text()
    assert "PASSED" not in log.read_text()


def test_the_run_time_begins_when_the_target_has_answered(faulty: str) -> None:
    ended = load("visitors", f"{faulty}/answers_after_a_second", "--run-time", "1s")
    assert "before it could begin" not in ended.stdout
    assert "\nVisitors: " in ended.stdout, ended.stdout


def test_a_worker_of_locusts_that_is_lost_fails_the_run(right: str, tmp_path: Path) -> None:
    log, before = tmp_path / "locust.log", value(right)
    with loading("visitors", right, "--processes", "2", log=log) as locust:
        wait_until(lambda: value(right) > before + 100, process=locust, log=log)
        psutil.Process(locust.pid).children()[0].kill()
        locust.send_signal(signal.SIGINT)
        assert locust.wait(90) == 1, log.read_text()
    assert "FAILED: 1 Locust workers were lost, and what they knew with them" in log.read_text()


@pytest.mark.parametrize("processes", [[], ["--processes", "2"]])
def test_ctrl_c_ends_a_run_with_its_verdict(right: str, tmp_path: Path, processes: list[str]) -> None:
    log, before = tmp_path / "locust.log", value(right)
    with loading("visitors", right, *processes, log=log) as locust:
        wait_until(lambda: value(right) > before + 100, process=locust, log=log)
        os.killpg(locust.pid, signal.SIGINT)  # as a terminal does
        assert locust.wait(60) == 0, log.read_text()
    assert "PASSED" in log.read_text()


def test_a_target_that_does_not_answer_is_told_before_the_run() -> None:
    ended = load("visitors", f"http://127.0.0.1:{free_port()}", "--run-time", "60s")
    assert ended.returncode == 1, ended.stdout
    assert "does not answer (ConnectionError): start it (./run up, or docker-compose" in ended.stdout


def test_a_target_that_is_not_ready_is_told_with_its_reason(faulty: str) -> None:
    ended = load("visitors", f"{faulty}/is_not_ready", "--run-time", "60s")
    assert ended.returncode == 1, ended.stdout
    reason = "GET / was answered 503: the database does not answer"
    assert f"FAILED: the run could not begin: {reason}" in ended.stdout


def test_a_target_that_dies_in_the_middle_ends_the_run(plain_environment: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "locust.log"
    with hypercorn(plain_environment, tmp_path / "log", app=f"{FAULTY}:in_memory()", workers=1) as server:
        right = f"{server.url}/no_fault"
        with loading("visitors", right, "--run-time", "100s", "--stall-limit", "2", log=log) as locust:
            wait_until(lambda: value(right) > 100, process=locust, log=log)
            kill(server)
            assert locust.wait(60) == 1
    assert "FAILED: no request was answered well for 2 s" in log.read_text()


def test_an_api_that_asks_for_a_token_says_so_before_the_run(faulty: str) -> None:
    ended = load("api_clients", f"{faulty}/asks_for_a_token", "--run-time", "60s")
    assert ended.returncode == 1, ended.stdout
    assert "this scenario needs a token with the scopes count and manage: make one by `./run quart" in ended.stdout


def test_more_users_than_file_descriptors_are_refused_with_what_to_do(right: str) -> None:
    run = command("visitors", right, "--users", "500", "--spawn-rate", "500", "--run-time", "60s")
    ended = subprocess.run(["bash", "-c", 'ulimit -n 300; exec "$@"', "-", *run], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "500 users need 600 file descriptors, and this process may have 300: raise the limit" in ended.stdout


WENT_UP = "FAILED: the page's counter: it went up by"


def test_locusts_page_offers_every_scenario_and_each_run_has_a_verdict(right: str, tmp_path: Path) -> None:
    page = f"http://127.0.0.1:{(port := free_port())}"
    options = ["-f", FOLDER, "--class-picker", "--web-host", "127.0.0.1", "--web-port", str(port), "--every", "1"]
    log = tmp_path / "locust.log"
    with log.open("wb") as file:
        command = [sys.executable, "-m", "locust", *options, "--host", right]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        wait_until(lambda: "Starting web interface" in log.read_text(), process=process, log=log)
        wait_until(lambda: answers(page), process=process, log=log)
        assert all(name in httpx.get(page).text for name in CLASSES)
        for verdicts, scenario in enumerate(("Visitors", "Burst"), 1):
            before = value(right)
            form = {"user_count": 5, "spawn_rate": 5, "user_classes": scenario, "host": right}
            started = httpx.post(f"{page}/swarm", data=form)
            assert started.json()["success"], started.text
            wait_until(lambda before=before: value(right) > before + 10, process=process, log=log)  # type: ignore[misc]
            assert httpx.get(right + "/").is_success  # another client, of whom each run must notice
            assert httpx.post(f"{page}/stop", timeout=60).is_success
            # The second run does not know of the first.
            wait_until(lambda n=verdicts: log.read_text().count(WENT_UP) == n, process=process, log=log)  # type: ignore[misc]
            assert f"\n{scenario}: " in log.read_text()
    finally:
        process.kill()
        process.wait()


def answers(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


def test_a_port_in_use_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = ["--web-host", "127.0.0.1", "--web-port", str(taken.getsockname()[1])]
        command = [sys.executable, "-m", "locust", "-f", FOLDER, "--host", "http://127.0.0.1:1", *options]
        ended = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert ended.returncode != 0
    assert "Address already in use" in ended.stderr, ended.stderr
