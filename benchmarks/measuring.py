"""One measurement: by wrk, or by Locust where requests arrive at a fixed rate."""

import http.client
import json
import os
import subprocess
import uuid
from collections.abc import Iterable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

from benchmarks.suites import Candidate
from loadtests.proof.measuring import MeasuringError, ProcessorClock, Run, run_locust

REPORT = Path(__file__).with_name("report.lua")

USERS = 4
"""Users of the scenario; more only cost the machine more."""


def wait_for_answer(url: str, limit: float = 120.0) -> None:
    """Returns when the server has answered, or after `limit` seconds.

    Most stacks still work on the hits of an earlier run when its clients have left: first in, first out.
    """
    with (
        closing(http.client.HTTPConnection(url.removeprefix("http://"), timeout=limit)) as connection,
        suppress(OSError, http.client.HTTPException),
    ):
        connection.request("GET", "/readyz")
        connection.getresponse().read()


def run_wrk(
    candidate: Candidate, url: str, connections: int, seconds: float, *, number: str, headers: Iterable[str] = ()
) -> Run:
    """Loads a path with wrk over so many connections, in the round of that number. Raises MeasuringError."""
    environment = {**os.environ, "KEYED": str(int(candidate.keyed)), "SALT": uuid.uuid4().hex}
    command = ["wrk", "--threads", "1", "--connections", str(connections), "--duration", f"{seconds:g}s"]
    command += ["--timeout", "10", "--script", str(REPORT), url + candidate.path]
    command += [f"--header={header}" for header in headers]
    clock = ProcessorClock()
    ended = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    foreign = clock.foreign()
    if ended.returncode != 0:
        raise MeasuringError(f"wrk ended with {ended.returncode}: {ended.stderr.strip()}")
    result = json.loads(ended.stdout.splitlines()[-1])
    rate = round(result["answered"] / result["seconds"], 1)
    return Run(candidate.name, connections, rate, result["p50"], result["p99"], result["failed"], number, foreign)


def run_arrivals(candidate: Candidate, url: str, rate: int, seconds: float, number: str) -> Run:
    """Sends requests at a fixed rate; latency counts from the time each was due. Raises MeasuringError."""
    options = ["--users", str(USERS), "--spawn-rate", str(USERS), "--arrivals", str(rate / USERS)]
    options += ["--run-time", f"{seconds:g}s"]
    return replace(run_locust("overload", candidate.name, url, options, number), arrivals=rate)
