"""One measurement: by wrk, or by Locust where requests arrive at a fixed rate; and how much of the machine was ours."""

import json
import os
import re
import resource
import subprocess
import sys
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from benchmarks.suites import Candidate
from service.platform.settings import ROOT

REPORT = Path(__file__).with_name("report.lua")
VERDICT = re.compile(
    r"^\w+: (\d+) requests, (\d+) failures, ([\d.]+)/s, p50 (\S+) ms, p95 \S+ ms, p99 (\S+) ms, and (\d+) refused", re.M
)
FOREIGN = 0.15
"""The share of the processors' time that others may take in a run without disturbing it."""

USERS = 4
"""Of the scenario; more only cost the machine more."""


@dataclass(frozen=True)
class Run:
    """One run. Rates are requests/s, latencies milliseconds; `arrivals` is 0 where wrk waited for each answer."""

    candidate: str
    connections: int
    rate: float
    p50: float
    p99: float
    failed: int
    round: str
    foreign: float = 0.0
    """The share of the processors' time that others took, the hypervisor's guests included."""
    arrivals: int = 0


class MeasuringError(Exception):
    """The load generator could not do its work."""


def by_wrk(
    candidate: Candidate, url: str, connections: int, seconds: float, *, number: str, headers: Iterable[str] = ()
) -> Run:
    """Lets wrk load a path over so many connections, in the round of that number. Raises MeasuringError."""
    environment = {**os.environ, "KEYED": str(int(candidate.keyed)), "SALT": uuid.uuid4().hex}
    command = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds:g}s"]
    command += ["--timeout", "10", "--script", str(REPORT), url + candidate.path]
    command += [f"--header={header}" for header in headers]
    clock = _Clock()
    ended = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    foreign = clock.foreign()
    if ended.returncode != 0:
        raise MeasuringError(f"wrk ended with {ended.returncode}: {ended.stderr.strip()}")
    result = json.loads(ended.stdout.splitlines()[-1])
    rate = round(result["answered"] / result["seconds"], 1)
    return Run(
        candidate.name, connections, rate, result["p50"], result["p99"], result["failed"], number, round(foreign, 3)
    )


def by_arrivals(candidate: Candidate, url: str, rate: int, seconds: float, number: str) -> Run:
    """Lets requests arrive at a fixed rate; latency counts from the time each was due. Raises MeasuringError."""
    users = ["--users", str(USERS), "--spawn-rate", str(USERS), "--arrivals", str(rate / USERS)]
    found = by_locust("overload", candidate.name, url, [*users, "--run-time", f"{seconds:g}s"], number)
    return replace(found, arrivals=rate)


def by_users(scenario: str, candidate: str, url: str, users: int, seconds: float) -> Run:
    """Lets so many users load the target, each as soon as it was answered; `connections` is their number.

    Raises MeasuringError.
    """
    options = ["--users", str(users), "--spawn-rate", str(users), "--run-time", f"{seconds:g}s"]
    return replace(by_locust(scenario, candidate, url, options, ""), connections=users)


def by_locust(scenario: str, candidate: str, url: str, options: list[str], number: str) -> Run:
    """Runs a scenario for correctness and returns what its verdict says. Raises MeasuringError where it fails."""
    command = [sys.executable, "-m", "locust", "-f", f"loadtests/scenarios/{scenario}.py", "--host", url, "--headless"]
    command += ["--thresholds", "none", "--only-summary", *options]
    clock = _Clock()
    ended = subprocess.run(command, cwd=ROOT, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    foreign = clock.foreign()
    found = VERDICT.search(ended.stdout)
    if found is None or ended.returncode != 0:
        failures = [line for line in ended.stdout.splitlines() if line.startswith("FAILED")]
        raise MeasuringError(f"Locust's {scenario} against {candidate}: {' '.join(failures) or ended.stderr[-600:]}")
    _, failed, answered, p50, p99, refused = found.groups()
    unserved = int(failed) + int(refused)
    return Run(candidate, 0, float(answered), float(p50), float(p99), unserved, number, round(foreign, 3))


class _Clock:
    """The processors' time from its making on: in all, and what this process and its children have used of it."""

    def __init__(self) -> None:
        self._all = psutil.cpu_times()
        self._own = _own_seconds()

    def foreign(self) -> float:
        """Returns the share of the processors' time that was neither idle nor ours."""
        now = psutil.cpu_times()
        passed = sum(now) - sum(self._all)
        idle = (now.idle - self._all.idle) + (getattr(now, "iowait", 0.0) - getattr(self._all, "iowait", 0.0))
        busy = passed - idle
        return max(0.0, (busy - (_own_seconds() - self._own)) / passed) if passed else 0.0


def _own_seconds() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = ended.ru_utime + ended.ru_stime
    here = psutil.Process()
    for process in [here, *here.children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total
