"""Measures the candidates in turn, and writes benchmarks/RESULTS.md with its charts: ./run bench --help."""

import argparse
import json
import shlex
import shutil
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime

import psutil

from benchmarks import charts, compose, report
from benchmarks.kept import Results, load
from benchmarks.measuring import run_arrivals, run_wrk, wait_for_answer
from benchmarks.report import render
from benchmarks.servers import servers
from benchmarks.suites import SERVERS, SUITES, Arriving, Candidate, Closed, Suite
from benchmarks.verdicts import judged, sentence
from harness.databases import docker_answers
from harness.environments import NotInstalled
from harness.machine import interrupt_at_any_signal, machine, raise_descriptors, software
from loadtests.proof.measuring import FOREIGN_LIMIT, MeasuringError, Run
from loadtests.proof.servers import say
from service.platform.settings import ROOT

WORKERS = 2
"""Of each server, unless --workers says otherwise."""

REPETITIONS = 2
"""How often a disturbed run is repeated, in which other processes took more than FOREIGN_LIMIT."""

BUSY_LIMIT = 50
"""Per cent of the processors' time that other processes may take before the first run."""

DISTURBED_LIMIT = 0.25
"""The share of disturbed runs above which there is no comparison."""

ARRIVING_ROUNDS = 3
"""Rounds with fixed rates of arrival: Locust is slow to start."""

UNFIT, INTERRUPTED = 2, 130
"""Exit codes: the machine does not allow a comparison; Ctrl-C."""


def main() -> int:
    given = parse()
    interrupt_at_any_signal()
    suite = planned(given)
    wanted = {name for part in suite.plan for name in part.candidates}
    wanted |= {name for part in suite.arriving for name in part.candidates}
    candidates = {one.name: one for one in suite.candidates if one.name in wanted}
    if reason := unfit(suite, candidates.values(), despite_noise=given.despite_noise):
        say(reason)
        return UNFIT
    results = begin(given)
    journal = ROOT / ".run/bench" / f"{datetime.now(UTC):%Y-%m-%dT%H%M%S}.jsonl"
    journal.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = 0
    failures: list[str] = []
    repeated = 0 if given.despite_noise else REPETITIONS
    try:
        needed = {one.server for one in candidates.values()}
        started = (
            compose.servers(results.notes)
            if suite.compose
            else servers(needed, workers=given.workers or WORKERS, receipts=given.receipts, notes=results.notes)
        )
        with (
            started as addresses,
            journal.open("w") as kept,
        ):
            for run in measure(suite, candidates, addresses, repeated=repeated, failures=failures):
                results.runs.append(run)
                kept.write(json.dumps(asdict(run)) + "\n")
                kept.flush()
    except KeyboardInterrupt:
        say("interrupted: everything is stopped")
        status = INTERRUPTED
    except (MeasuringError, NotInstalled) as error:
        failures.append(str(error))
    for failure in failures:
        say(f"FAILED: {failure}")
    status = status or min(1, len(failures))
    return conclude(given, suite, results, status, f"the runs are kept in {journal.relative_to(ROOT)}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./run bench", description=__doc__)
    parser.add_argument(
        "suite", nargs="?", default="stacks", choices=SUITES, help=f"{', '.join(SUITES)}; stacks is the default"
    )
    parser.add_argument("--quick", action="store_true", help="fewer connections and rounds: minutes")
    parser.add_argument("--rounds", type=positive, help="how often each is measured")
    parser.add_argument("--seconds", type=positive, help="how long each time")
    parser.add_argument("--workers", type=positive, help=f"of each server ({WORKERS}); not for compose")
    parser.add_argument("--connections", type=positive, nargs="+", help="only these of the suite's")
    parser.add_argument("--receipts", type=positive, default=10_000_000, help="of a counter with many (10,000,000)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these candidates")
    parser.add_argument("--add", action="store_true", help="add to this machine's kept results")
    parser.add_argument("--despite-noise", action="store_true", help="measure on a busy machine too, without writing")
    parser.add_argument("--no-write", action="store_true", help="change neither RESULTS.md, charts nor kept results")
    given = parser.parse_args()
    if given.quick and SUITES[given.suite].quick is None:
        parser.error(f"the suite {given.suite} has no quick form: give --rounds and --seconds")
    if given.workers and SUITES[given.suite].compose:
        parser.error("--workers is not for the suite compose: its workers are those that docker-compose starts")
    names = {one.name for one in SUITES[given.suite].candidates}
    if unknown := set(given.only or ()) - names:
        parser.error(
            f"the suite {given.suite} has no candidate {unknown.pop()!r}: there are {', '.join(sorted(names))}"
        )
    if shutil.which("wrk") is None:
        parser.error("wrk is needed: apt-get install wrk")
    return given


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def planned(given: argparse.Namespace) -> Suite:
    """Returns the suite with the options applied."""
    suite: Suite = SUITES[given.suite]
    if given.quick and suite.quick is not None:
        suite = suite.quick

    def kept(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in names if given.only is None or name in given.only)

    plan = tuple(part for part in suite.plan if given.connections is None or part.connections in given.connections)
    if given.connections and not plan:
        every = tuple(dict.fromkeys(name for part in suite.plan for name in part.candidates))
        plan = tuple(Closed(number, every) for number in given.connections)
    return replace(
        suite,
        plan=tuple(Closed(part.connections, kept(part.candidates)) for part in plan),
        arriving=() if given.connections else tuple(Arriving(one.rate, kept(one.candidates)) for one in suite.arriving),
        rounds=given.rounds or suite.rounds,
        seconds=given.seconds or suite.seconds,
    )


def unfit(suite: Suite, candidates: Iterable[Candidate], *, despite_noise: bool) -> str | None:
    """Returns the reason why the machine cannot measure this, None if it can."""
    if suite.compose:
        if not docker_answers():
            return "The suite compose needs a Docker engine, and none answers here."
    elif any(SERVERS[one.server].sync for one in candidates) and shutil.which("strace") is None:
        return "strace is needed for the slow disk: apt-get install strace, or leave it out by --only."
    most = max(part.connections for part in suite.plan)
    if reason := raise_descriptors(4 * most + 1000):
        return reason
    busy = 0.0 if despite_noise else psutil.cpu_percent(interval=2)
    if busy > BUSY_LIMIT:
        return f"The machine is busy ({busy:.0f} % of its processors' time): end what else runs, and measure then."
    return None


def begin(given: argparse.Namespace) -> Results:
    command = f"./run bench {shlex.join(sys.argv[1:])}".rstrip()
    date = f"{datetime.now(UTC):%Y-%m-%d}"
    measured = compose.software() if SUITES[given.suite].compose else software()
    new = Results(given.suite, machine(), measured, date, [command])
    if given.add and new.file.exists():
        kept = load(new.file)
        if kept.software != new.software:
            raise SystemExit(f"The kept results were measured with other software ({kept.software}): measure anew.")
        return replace(kept, commands=[*kept.commands, command])
    return new


def measure(
    suite: Suite, candidates: dict[str, Candidate], addresses: dict[str, str], *, repeated: int, failures: list[str]
) -> Iterator[Run]:
    """Yields the runs, round after round; `failures` gets the reasons for missing ones."""
    session = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}"
    for one in candidates.values():
        run_wrk(one, addresses[one.server], 64, 1, number="warm")
    rounds: list[list[Closed | Arriving]] = [
        [*suite.plan, *(suite.arriving if number <= ARRIVING_ROUNDS else ())] for number in range(1, suite.rounds + 1)
    ]
    total = sum(len(part.candidates) for parts in rounds for part in parts)
    done, begun = 0, time.monotonic()
    for number, parts in enumerate(rounds, 1):
        for part in parts:
            for one in (candidates[name] for name in part.candidates):
                in_round = f"{session}/{number}"
                say(progress(number, suite.rounds, done, total, time.monotonic() - begun))
                done += 1
                try:
                    yield undisturbed(one, addresses[one.server], part, suite.seconds, in_round, repeated=repeated)
                except MeasuringError as error:
                    say(str(error))
                    failures.append(str(error))


def progress(number: int, rounds: int, done: int, total: int, seconds: float) -> str:
    """Returns how far the measuring is, and how long it takes by what it took so far, in `seconds`."""
    left = f", about {seconds / done * (total - done) / 60:.0f} min left" if done else ""
    return f"round {number}/{rounds}, run {done + 1}/{total}{left}"


def undisturbed(
    one: Candidate, url: str, part: Closed | Arriving, seconds: int, in_round: str, *, repeated: int
) -> Run:
    """Returns the first run that other processes did not disturb, or the last of 1 + `repeated` disturbed ones."""
    for _ in range(1 + repeated):
        wait_for_answer(url)
        if isinstance(part, Closed):
            run = run_wrk(one, url, part.connections, seconds, number=in_round)
        else:
            run = run_arrivals(one, url, part.rate, seconds, in_round)
        say(describe(run))
        if run.foreign <= FOREIGN_LIMIT:
            break
        say(f"  others took {run.foreign:.0%} of the processors' time")
    return run


def describe(run: Run) -> str:
    how = f"{run.arrivals:5} arrivals/s" if run.arrivals else f"{run.connections:5} connections"
    return f"{how} {run.rate:7.0f}/s p99 {run.p99:6.1f} ms {run.failed} failed: {run.candidate}"


def conclude(given: argparse.Namespace, suite: Suite, results: Results, status: int, where: str) -> int:
    """Prints the report, and writes it unless it is a part or the machine was too noisy."""
    if not results.runs:
        return status
    disturbed = sum(run.foreign > FOREIGN_LIMIT for run in results.runs) / len(results.runs)
    if disturbed > DISTURBED_LIMIT and not given.despite_noise:
        say(
            f"The machine was too noisy to compare: in {disturbed:.0%} of the runs others took more than "
            f"{FOREIGN_LIMIT:.0%} of the processors' time. Measure again when it is quieter; {where}."
        )
        return status or UNFIT
    print(render(results))
    whole = given.only is None and given.connections is None
    if status == 0 and not (given.no_write or given.despite_noise) and (whole or given.add):
        results.save()
        status = draw(results) if suite.charts else status
        report.write(results.machine)  # shows the charts that there are
        say("written: benchmarks/RESULTS.md")
    else:
        say(where)
    for found in judged(results, suite):
        print(sentence(found))
    steady = [run.rate for run in results.runs if run.candidate == suite.steady and run.connections == 256]
    if steady:
        spread = (max(steady) - min(steady)) / statistics.median(steady)
        print(f"({suite.steady} varied by {spread:.0%} between rounds)")
    return status


def draw(results: Results) -> int:
    """Draws the charts; returns an exit code."""
    try:
        charts.draw(results)
    except NotInstalled as error:
        say(f"FAILED: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
