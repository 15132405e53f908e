"""Locust's scenarios as a test runs them."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from harness.processes import Hypercorn, for_each, free_port
from service.platform.settings import ROOT

FOLDER = "loadtests/scenarios"

SCENARIOS = sorted(path.stem for path in (ROOT / FOLDER).glob("*.py"))

CLASSES = ["".join(word.title() for word in name.split("_")) for name in SCENARIOS]

ALL = "all"
"""All scenarios in one run."""


def command(scenario: str, url: str, *options: str) -> list[str]:
    """Returns the command of a headless run of ten users, for correctness alone unless told otherwise."""
    own = [] if "--thresholds" in options else ["--thresholds", "none"]
    users = [] if "--users" in options else ["--users", "10", "--spawn-rate", "100"]
    # For --processes: their master's own port, since other tests may run beside this one.
    port = str(free_port())
    own += ["--master-bind-port", port, "--master-port", port]
    locustfile = FOLDER if scenario == ALL else f"{FOLDER}/{scenario}.py"
    return [sys.executable, "-m", "locust", "-f", locustfile, "--host", url, "--headless", *users, *own, *options]


def load(scenario: str, url: str, *options: str) -> "subprocess.CompletedProcess[str]":
    """Runs a scenario; what it printed is all in `stdout`."""
    return subprocess.run(
        command(scenario, url, "--only-summary", *options),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=100,
    )


@contextmanager
def loading(scenario: str, url: str, *options: str, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Runs a scenario beside the block; `log` has what it prints."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            command(scenario, url, *options),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            process_group=0,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def value(url: str) -> int:
    """Returns the value of a counter without a fault, or how many requests the silent one has taken; counts nothing."""
    return int(httpx.get(f"{url}/value").text)


def kill(server: Hypercorn) -> None:
    """Ends a server without a warning."""
    for_each(psutil.Process(server.process.pid).children(recursive=True), psutil.Process.kill)
    server.process.kill()
    server.process.wait()
