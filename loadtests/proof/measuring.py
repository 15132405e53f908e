"""One measured run of a scenario: its rate and latencies, and how much of the machine other processes took."""

import re
import resource
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import psutil

from service.platform.settings import ROOT

VERDICT = re.compile(
    r"^\w+: (\d+) requests, (\d+) failures, ([\d.]+)/s, p50 (\S+) ms, p95 \S+ ms, p99 (\S+) ms, and (\d+) refused", re.M
)
"""The line of loadtests/verdict.py for a scenario."""

FOREIGN_LIMIT = 0.15
"""The share of the processors' time that other processes may take without disturbing a run."""


@dataclass(frozen=True)
class Run:
    """One run. Rates are requests/s, latencies milliseconds; `arrivals` is 0 where a client waited for each answer."""

    candidate: str
    connections: int
    rate: float
    p50: float
    p99: float
    failed: int
    round: str
    foreign: float = 0.0
    """The share of the processors' time that other processes took, the hypervisor's guests included."""
    arrivals: int = 0


class MeasuringError(Exception):
    """The load generator could not do its work."""


def run_users(scenario: str, candidate: str, url: str, users: int, seconds: float) -> Run:
    """Loads the target with so many users, each of whom waits for each answer; `connections` is their number.

    Raises MeasuringError.
    """
    options = ["--users", str(users), "--spawn-rate", str(users), "--run-time", f"{seconds:g}s"]
    return replace(run_locust(scenario, candidate, url, options), connections=users)


def run_locust(scenario: str, candidate: str, url: str, options: list[str], number: str = "") -> Run:
    """Runs a scenario with no thresholds but correctness, and returns what its verdict says.

    `number`: the round's. Raises MeasuringError where the run fails.
    """
    command = [sys.executable, "-m", "locust", "-f", f"loadtests/scenarios/{scenario}.py", "--host", url, "--headless"]
    command += ["--thresholds", "none", "--only-summary", *options]
    clock = ProcessorClock()
    ended = subprocess.run(command, cwd=ROOT, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    foreign = clock.foreign()
    found = VERDICT.search(ended.stdout)
    if found is None or ended.returncode != 0:
        failures = [line for line in ended.stdout.splitlines() if line.startswith("FAILED")]
        raise MeasuringError(f"Locust's {scenario} against {candidate}: {' '.join(failures) or ended.stderr[-600:]}")
    _, failed, answered, p50, p99, refused = found.groups()
    unserved = int(failed) + int(refused)
    return Run(candidate, 0, float(answered), float(p50), float(p99), unserved, number, foreign)


_ELSEWHERE: list[psutil.Process] = []
"""Processes that work for this one without being its children."""


@contextmanager
def counted_as_own(processes: Iterable[psutil.Process]) -> Iterator[None]:
    """Has ProcessorClock count these and their children as own ones in the block: containers are no children."""
    _ELSEWHERE[:] = processes
    try:
        yield
    finally:
        _ELSEWHERE.clear()


class ProcessorClock:
    """The processors' time since it was made: of the whole machine, and of this process and its children."""

    def __init__(self) -> None:
        self._all = psutil.cpu_times()
        self._own = own_seconds()

    def foreign(self) -> float:
        """Returns the share of the processors' time that other processes took, to a thousandth."""
        now = psutil.cpu_times()
        passed = sum(now) - sum(self._all)
        idle = (now.idle - self._all.idle) + (getattr(now, "iowait", 0.0) - getattr(self._all, "iowait", 0.0))
        busy = passed - idle
        return round(max(0.0, (busy - (own_seconds() - self._own)) / passed), 3) if passed else 0.0


def own_seconds() -> float:
    """Returns the processors' time that this process and all that is counted as own have taken, in seconds."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    total = ended.ru_utime + ended.ru_stime
    for root in psutil.Process(), *_ELSEWHERE:
        with suppress(psutil.NoSuchProcess):
            for process in [root, *root.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess):
                    times = process.cpu_times()
                    total += times.user + times.system
    return total
