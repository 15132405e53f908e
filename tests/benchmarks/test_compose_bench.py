"""The suite `compose`: that it measures the stack as it is, and leaves nothing of it behind."""

import os
import re
import subprocess
import sys

import pytest

from benchmarks.__main__ import UNFIT, parse
from benchmarks.suites import COMPOSE
from harness.compose import docker
from harness.processes import run_name
from service.platform.settings import ROOT

DIRECT, AT_NGINX, _, _, _, PORT_ALONE = (one.name for one in COMPOSE.candidates)


def bench(*options: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["./run", "bench", "compose", *options],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=400,
    )


@pytest.mark.compose
@pytest.mark.rehearsal
def test_the_stack_is_measured_beside_one_replica_that_is_asked_directly() -> None:
    brief = ["--rounds", "1", "--seconds", "1", "--connections", "128", "--despite-noise"]
    ended = bench(*brief, "--only", DIRECT, AT_NGINX, PORT_ALONE)
    assert ended.returncode == 0, ended.stderr
    rows = re.findall(r"^\| (.*) \| [1-9]\d* \(\d+ / \d+\) \| 0 \|$", ended.stdout, re.MULTILINE)
    assert rows == [DIRECT, AT_NGINX, PORT_ALONE], ended.stdout
    assert f"| {AT_NGINX} / {DIRECT} | 128 | **" in ended.stdout
    assert re.search(r"^In the images: Python 3.*, quart .*, nginx 1.*, MySQL 9", ended.stdout, re.MULTILINE)
    (workers,) = re.findall(
        r"^Workers: (.*) in the replicas of the stack, (\d+) in the one", ended.stdout, re.MULTILINE
    )
    assert sum(map(int, workers[0].split(" and "))) == int(workers[1]) > 0
    assert re.search(r"^Memory after the load .* a replica with .* \d+.*MiB, nginx \d", ended.stdout, re.MULTILINE)
    own = "--filter", f"name=^{run_name()}", "--filter", "label=com.docker.compose.oneoff=True"
    assert docker("ps", "--all", "--quiet", *own) == ""


def test_without_docker_it_says_what_is_missing() -> None:
    ended = bench(DOCKER_HOST="tcp://127.0.0.1:1")
    assert ended.returncode == UNFIT
    assert "The suite compose needs a Docker engine, and none answers here." in ended.stderr


def test_a_number_of_workers_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "compose", "--workers", "4"])
    with pytest.raises(SystemExit):
        parse()
    assert "--workers is not for the suite compose" in capsys.readouterr().err
