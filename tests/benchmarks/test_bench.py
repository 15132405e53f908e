"""The benchmark: that it runs by one command, says what it found, and leaves nothing behind."""

import os
import re
import shutil
import signal
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from benchmarks import charts, kept, report
from benchmarks.__main__ import UNFIT, conclude, parse, progress, unfit
from benchmarks.kept import Results
from benchmarks.report import render
from benchmarks.slow_disk import SYNC
from benchmarks.suites import (
    ALONE,
    CEILING,
    FAST,
    FASTAPI,
    NEAR,
    PEERS,
    POINTS,
    SLEEPING,
    SLOW_DISK,
    STACKS,
    SUITES,
    Arriving,
    Claim,
    on,
)
from benchmarks.verdicts import judged, ratio, summary
from harness.processes import wait_until
from loadtests.proof.measuring import Run
from loadtests.proof.stacks import FLASK_PATCH, TALLY
from service.platform.settings import ROOT

ROW = re.compile(r"^\| (.*) \| [1-9]\d* \(([\d.]+) / ([\d.]+)\) \| 0 \|$", re.MULTILINE)
"""Of a candidate at one number of connections: its name, p50 and p99."""

BRIEF = ["--rounds", "1", "--seconds", "1", "--workers", "1", "--connections", "8", "--despite-noise"]


def bench(*options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["./run", "bench", *options], cwd=ROOT, capture_output=True, text=True, timeout=400)


@pytest.mark.native
def test_other_stacks_are_measured_beside_it_with_a_normal_and_a_slow_database() -> None:
    names = "Tally through nginx", FLASK_PATCH, on(SLEEPING, TALLY)
    ended = bench(*BRIEF, "--quick", "--only", *names)
    assert ended.returncode == 0, ended.stderr
    assert [name for name, _, _ in ROW.findall(ended.stdout)] == list(names), ended.stdout


@pytest.mark.native
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace delays the syncs")
def test_other_stacks_are_measured_with_a_database_that_is_far_and_with_a_slow_disk() -> None:
    names = on(SLOW_DISK, TALLY), on(NEAR, TALLY)
    ended = bench(*BRIEF, "--quick", "--only", *names)
    assert ended.returncode == 0, ended.stderr
    medians = {name: float(p50) for name, p50, _ in ROW.findall(ended.stdout)}
    assert set(medians) == set(names), ended.stdout
    # No machine is faster than a delay.
    assert medians[on(NEAR, TALLY)] >= 2
    assert medians[on(SLOW_DISK, TALLY)] >= 1000 * SYNC
    (alone,) = re.findall(r"One commit alone then takes ([\d.]+) ms", ended.stdout)
    assert float(alone) > 1000 * SYNC


@pytest.mark.native
def test_the_application_is_measured_under_other_servers() -> None:
    ended = bench("servers", *BRIEF, "--only", "counter, uvicorn", "without a database, granian")
    assert ended.returncode == 0, ended.stderr
    assert len(ROW.findall(ended.stdout)) == 2, ended.stdout


@contextmanager
def benchmark_of_the_counter(log: Path, until: str) -> Iterator[tuple["subprocess.Popen[bytes]", list[psutil.Process]]]:
    """Begins a long benchmark; when it has printed `until`, gives it and its children, which must end in the block."""
    with log.open("wb") as file:
        command = ["./run", "bench", "counter", "--rounds", "100", "--seconds", "1", "--despite-noise"]
        command += ["--workers", "1", "--connections", "64", "--only", "counter", "ceiling"]
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file, process_group=0)
    wait_until(lambda: until in log.read_text(), process=process, log=log, limit=100)
    children = psutil.Process(process.pid).children(recursive=True)
    assert children
    yield process, children
    assert process.wait(60) == 130, log.read_text()
    assert not psutil.wait_procs(children, timeout=10)[1]
    assert "Traceback" not in log.read_text()


@pytest.mark.native
def test_ctrl_c_stops_everything_and_reports_what_was_measured(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with benchmark_of_the_counter(log, "round 2/100") as (process, children):
        assert len(children) > 3
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    printed = log.read_text()
    (journal,) = re.findall(r"the runs are kept in (\.run/bench/\S+\.jsonl)", printed)
    assert (ROOT / journal).read_text().count('"candidate": "ceiling"') >= 1
    assert [name for name, _, _ in ROW.findall(printed)] == ["ceiling", "counter"], printed


@pytest.mark.native
def test_sigterm_stops_everything_while_the_servers_start(tmp_path: Path) -> None:
    with benchmark_of_the_counter(tmp_path / "log", "starting near") as (process, _):
        process.send_signal(signal.SIGTERM)


@pytest.mark.native
def test_too_few_file_descriptors_are_told_with_how_to_raise_them() -> None:
    ended = subprocess.run(
        ["bash", "-c", "ulimit -n 500; exec ./run bench counter --connections 1024"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ended.returncode == UNFIT
    assert "5096 file descriptors are needed, and 500 are allowed: `ulimit -Hn 5096` as root" in ended.stderr


def test_a_missing_strace_is_told_only_where_a_slow_disk_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    wanted = [one for one in STACKS.candidates if one.name == on(SLOW_DISK, TALLY)]
    assert "apt-get install strace" in (unfit(STACKS.quick or STACKS, wanted, despite_noise=True) or "")
    assert unfit(STACKS.quick or STACKS, [], despite_noise=True) is None


def test_a_candidate_that_does_not_exist_is_told_with_those_that_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", "--only", "Rails"])
    with pytest.raises(SystemExit):
        parse()
    assert "the suite stacks has no candidate 'Rails': there are " in capsys.readouterr().err


def run(candidate: str, rate: float, number: int, **other: float) -> Run:
    found = Run(candidate, 256, rate, p50=1, p99=2, failed=0, round=f"now/{number}")
    return replace(found, **other)  # type: ignore[arg-type]


def results(*runs: Run, machine: str = "this machine") -> Results:
    return Results("stacks", machine, "software", "2026-11-24", ["./run bench"], runs=list(runs))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where results are kept and written."""
    for module, name, path in (
        (report, "RESULTS", "RESULTS.md"),
        (report, "CHARTS", "charts"),
        (kept, "KEPT", "results"),
    ):
        monkeypatch.setattr(module, name, tmp_path / path)
    return tmp_path


def test_each_run_says_how_far_the_measuring_is_and_how_long_it_takes() -> None:
    assert progress(1, 2, 0, 8, 0.0) == "round 1/2, run 1/8"
    assert progress(2, 2, 6, 8, 180.0) == "round 2/2, run 7/8, about 1 min left"


def test_a_ratio_is_taken_within_rounds() -> None:
    tally = (run(TALLY, rate, number) for number, rate in enumerate((1000.0, 2000.0, 500.0)))
    other = (run(FLASK_PATCH, rate, number) for number, rate in enumerate((100.0, 100.0, 100.0, 1.0)))
    found = ratio(results(*tally, *other), Claim(TALLY, FLASK_PATCH, 256))
    assert found is not None
    assert (found.median, found.lowest, found.highest) == (10.0, 5.0, 20.0)
    assert found.verdict == ""


PEER = Claim(TALLY, FASTAPI, 256, 1, peer=True)


@pytest.mark.parametrize(
    ("claim", "measured", "verdict"),
    [
        (PEER, (100, 90, 120), "no peer ahead"),
        (PEER, (90, 101, 80), "peer ahead, within the spread"),
        (PEER, (90, 99, 80), "PEER AHEAD"),
        (Claim(TALLY, FASTAPI, 256, 0.9), (90, 89, 95), "reached"),
        (Claim(TALLY, FASTAPI, 256, 0.9), (89, 89, 91), "not reached, within the spread"),
        (Claim(TALLY, FASTAPI, 256, 0.9), (89, 88, 87), "NOT REACHED"),
        (Claim(TALLY, FASTAPI, 256, 1.1, "p50"), (110, 90, 130), "reached"),
        (Claim(TALLY, FASTAPI, 256, 1.1, "p50"), (111, 110, 130), "not reached, within the spread"),
        (Claim(TALLY, FASTAPI, 256, 1.1, "p50"), (111, 112, 130), "NOT REACHED"),
    ],
)
def test_a_rate_is_at_least_and_a_latency_at_most_what_is_claimed_by_the_median_of_the_rounds(
    claim: Claim, measured: tuple[int, ...], verdict: str
) -> None:
    kept_otherwise = {"rate": 7.0, "p50": 7.0}
    runs = [
        run(name, number=number, **{**kept_otherwise, claim.quantity: value})
        for number, of in enumerate(measured)
        for name, value in ((TALLY, of), (FASTAPI, 100))
    ]
    found = ratio(results(*runs), claim)
    assert found is not None
    assert found.verdict == verdict


def test_a_stack_that_answered_nothing_has_no_latency_to_be_proud_of() -> None:
    claim = Claim(TALLY, FASTAPI, 256, 1.1, "p50")
    found = ratio(results(run(TALLY, 0, 1, p50=0), run(FASTAPI, 100, 1)), claim)
    assert found is not None
    assert found.verdict == "NOT REACHED"
    assert ratio(results(run(TALLY, 100, 1), run(FASTAPI, 0, 1, p50=0)), claim) is None


def test_the_report_begins_with_the_verdicts_and_the_worst_is_first() -> None:
    rates = {
        TALLY: (100, 100),
        ALONE: (50, 25),
        FASTAPI: (90, 120),
        on(SLEEPING, TALLY): (100, 100),
        on(SLEEPING, FASTAPI): (130, 100),
        on(SLEEPING, ALONE): (90, 80),
    }
    few = [run(name, rate, 1, connections=16, p50=5) for name, (rate, _) in rates.items()]
    found = results(*few, *(run(name, rate, 1) for name, (_, rate) in rates.items()))
    table = [line for line in summary(found, STACKS) if line.startswith("|")]
    assert table == [
        "| ratio | bound | 16 | 256 | |",
        "|---|---|---|---|---|",
        f"| Tally / {FASTAPI}; slow database | ≥ 1 | **0.77** | 1.00 | PEER AHEAD |",
        f"| Tally / {FASTAPI} | ≥ 1 | 1.11 | **0.83** | PEER AHEAD |",
        f"| p50 of Tally / {ALONE}; slow database | ≤ 1.1 | 1.00 |  | reached |",
        f"| p50 of Tally / {FASTAPI}; slow database | ≤ 1.1 | 1.00 |  | reached |",
        f"| Tally / {ALONE}; slow database | ≥ 1 | 1.11 | 1.25 | no peer ahead |",
        f"| Tally / {ALONE} | ≥ 1 | 2.00 | 4.00 | no peer ahead |",
    ]
    assert re.search(r"^\|.*", render(found), re.MULTILINE)[0] == table[0]  # type: ignore[index]
    assert [one.median for one in judged(found, STACKS)][:2] == [100 / 130, 100 / 120]


def test_every_peer_is_judged_wherever_it_is_measured_beside_tally() -> None:
    claimed = {(claim.of, claim.to, claim.connections) for claim in STACKS.claims if claim.peer}
    for part in STACKS.plan:
        for database in POINTS:
            peers = {on(database, peer) for peer in PEERS} & set(part.candidates)
            assert len(peers) in {0, len(PEERS)}
            assert {(on(database, TALLY), peer, part.connections) for peer in peers} <= claimed


def test_the_verdicts_are_printed_at_the_end_the_worst_first(capsys: pytest.CaptureFixture[str]) -> None:
    given = Namespace(only=None, connections=None, no_write=True, add=False, despite_noise=False)
    found = results(run(TALLY, 100, 1), run(FASTAPI, 125, 1), run(ALONE, 50, 1))
    assert conclude(given, STACKS, found, 0, "kept") == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"PEER AHEAD: Tally / {FASTAPI}, 256 connections: 0.80 (0.80 to 0.80), bound ≥ 1",
        f"no peer ahead: Tally / {ALONE}, 256 connections: 2.00 (2.00 to 2.00), bound ≥ 1",
    ]


def test_results_of_two_machines_are_kept_apart(folder: Path) -> None:
    for machine, rate in ("one machine", 1111), ("another machine", 2222):
        results(run(TALLY, rate, 1), machine=machine).save()
    report.write("another machine")
    written = (folder / "RESULTS.md").read_text()
    assert "2222" in written
    assert "1111" not in written
    assert len(list((folder / "results").glob("*/stacks.json"))) == 2


@pytest.mark.parametrize(("foreign", "status"), [(0.5, UNFIT), (0.0, 0)])
def test_nothing_is_compared_where_the_machine_was_too_noisy(
    folder: Path, capsys: pytest.CaptureFixture[str], foreign: float, status: int
) -> None:
    found = results(*(run(name, 100, 1, foreign=foreign) for name in (TALLY, CEILING, FLASK_PATCH)))
    given = Namespace(only=None, connections=None, no_write=False, add=False, despite_noise=False)
    assert conclude(given, STACKS, found, 0, "kept") == status
    printed = capsys.readouterr()
    assert ("too noisy to compare: in 100% of the runs" in printed.err) == bool(status)
    assert (folder / "RESULTS.md").exists() == (not status)
    assert (f"{TALLY} / {FLASK_PATCH}" in printed.out) == (not status)


def test_the_charts_are_svg_with_every_line_named_and_no_background(folder: Path) -> None:
    lines = [
        run(on(database, name), 100.0 * number, number, connections=number)
        for database in (FAST, SLEEPING, NEAR)
        for name in (TALLY, FLASK_PATCH)
        for number in (1, 4, 16)
    ]
    charts.draw(results(*lines, run(TALLY, 100, 1, arrivals=100, connections=0)))
    drawn = {path.stem: path.read_text() for path in (folder / "charts").iterdir()}
    assert set(drawn) == {"connections", "slow-databases", "arrivals"}
    texts = re.findall(r"<text [^>]*>(.*)</text>", drawn["connections"])
    for once in TALLY, FLASK_PATCH, "requests/s", "fast database", "slow database: each transaction 100 ms longer":
        assert texts.count(once) == 1, once
    assert texts.count("kept-alive connections") == 2
    assert "#ffffff" not in drawn["connections"]


def test_each_suite_names_only_candidates_that_it_has() -> None:
    for suite in [*SUITES.values(), STACKS.quick]:
        assert suite is not None
        names = {one.name for one in suite.candidates}
        parts: list[tuple[str, ...]] = [part.candidates for part in suite.plan]
        parts += [part.candidates for part in suite.arriving if isinstance(part, Arriving)]
        assert {name for part in parts for name in part} <= names
        assert {name for claim in suite.claims for name in (claim.of, claim.to)} <= names
        assert suite.steady in names
    assert "Tally" in render(results(run(TALLY, 1, 1)))
