"""The report: kept runs of one machine, their ratios with a verdict on each claim, and RESULTS.md."""

import json
import re
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.suites import SUITES, Claim, Suite
from loadtests.proof.measuring import Run

FOLDER = Path(__file__).parent
RESULTS, CHARTS, KEPT = FOLDER / "RESULTS.md", FOLDER / "charts", FOLDER / "results"

INTRODUCTION = """# Results

Written by `./run bench`. Candidates are measured in turn (A B C A B C), so that what disturbs one disturbs all. A ratio
compares rates of the same round; the tables show the median of all rounds, with the lowest and the highest. Load
generator, service and database share the machine. The database is a fully durable MariaDB (`log_bin`, `sync_binlog=1`,
`innodb_flush_log_at_trx_commit=1`).
"""


@dataclass
class Results:
    """The runs of a suite on one machine."""

    suite: str
    machine: str
    software: str
    date: str
    commands: list[str]
    notes: list[str] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)

    @property
    def file(self) -> Path:
        return KEPT / re.sub(r"[^a-z0-9]+", "-", self.machine.lower()).strip("-") / f"{self.suite}.json"

    def save(self) -> None:
        """Keeps the results, apart from those of other machines."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(asdict(self), indent=1) + "\n")

    def of(self, candidate: str, connections: int, arrivals: int = 0) -> dict[str, Run]:
        """Returns the candidate's runs by round."""
        wanted = candidate, connections, arrivals
        return {run.round: run for run in self.runs if (run.candidate, run.connections, run.arrivals) == wanted}


def load(file: Path) -> Results:
    found = json.loads(file.read_text())
    return Results(**{**found, "runs": [Run(**run) for run in found["runs"]]})


@dataclass(frozen=True)
class Ratio:
    """The ratio of two candidates' rates: median, lowest and highest round, and the median of their p99s' ratio."""

    claim: Claim
    median: float
    lowest: float
    highest: float
    tails: float

    @property
    def verdict(self) -> str:
        if not self.claim.target:
            return ""
        covered = ", but the rounds cover the bound" if self.lowest < self.claim.target < self.highest else ""
        return ("reached" if self.median >= self.claim.target else "not reached") + covered


def ratio(results: Results, claim: Claim) -> Ratio | None:
    """Returns the ratio of a claim, None without runs of both in one round."""
    of, to = (results.of(name, claim.connections) for name in (claim.of, claim.to))
    pairs = [(of[number], to[number]) for number in of if number in to and to[number].rate > 0]
    if not pairs:
        return None
    ratios = [one.rate / other.rate for one, other in pairs]
    tails = [one.p99 / other.p99 for one, other in pairs if other.p99 > 0] or [0.0]
    return Ratio(claim, statistics.median(ratios), min(ratios), max(ratios), statistics.median(tails))


def median_rate(results: Results, candidate: str, connections: int) -> float | None:
    runs = results.of(candidate, connections).values()
    return statistics.median(run.rate for run in runs) if runs else None


def render(results: Results) -> str:
    """Returns a suite's part of the report in Markdown: ratios first, then rates and latencies."""
    suite = SUITES[results.suite]
    commands = " and ".join(f"`{command}`" for command in dict.fromkeys(results.commands))
    lines = [f"## {suite.title}", "", f"{commands}, {results.date}, on {results.machine}; {results.software}.", ""]
    lines += _charts(suite)
    lines += _rates(results, suite)
    lines += _arriving(results, suite)
    lines += _ratios(results, suite)
    for note in results.notes:
        lines += ["", note]
    return "\n".join(lines) + "\n"


def write(machine: str) -> None:
    """Writes RESULTS.md from the kept results of this machine.

    A suite that was never measured on it is shown with another machine's results and name; results are never mixed.
    """
    parts = []
    for name in SUITES:
        kept = sorted(map(load, KEPT.glob(f"*/{name}.json")), key=lambda one: (one.machine == machine, one.date))
        parts += [render(one) for one in kept[-1:]]
    RESULTS.write_text("\n".join([INTRODUCTION, *parts]))


def _ratios(results: Results, suite: Suite) -> Iterator[str]:
    yield from (
        "",
        "| ratio of rates | connections | median | lowest | highest | target | p99, ratio | |",
        "|---|---|---|---|---|---|---|---|",
    )
    for claim in suite.claims:
        found = ratio(results, claim)
        if found is not None:
            target = f"≥ {claim.target:g}" if claim.target else ""
            yield (
                f"| {claim.of} / {claim.to} | {claim.connections} | **{found.median:.2f}** | {found.lowest:.2f} | "
                f"{found.highest:.2f} | {target} | {found.tails:.2f} | {found.verdict} |"
            )


def _rates(results: Results, suite: Suite) -> Iterator[str]:
    connections = sorted({run.connections for run in results.runs if not run.arrivals})
    yield from (
        f"Medians of requests/s, and of the 99th percentile of latency in ms, at {_list(connections)} connections:",
        "",
        f"| requests/s (p99) | {' | '.join(map(str, connections))} | failed |",
        f"|---|{'---|' * (len(connections) + 1)}",
    )
    for candidate in suite.candidates:
        cells, failed = [], 0
        for number in connections:
            runs = results.of(candidate.name, number).values()
            failed += sum(run.failed for run in runs)
            p99 = statistics.median(run.p99 for run in runs) if runs else 0
            cells.append(f"{statistics.median(run.rate for run in runs):.0f} ({p99:.0f})" if runs else "")
        if any(cells):
            yield f"| {candidate.name} | {' | '.join(cells)} | {failed} |"


def _arriving(results: Results, suite: Suite) -> Iterator[str]:
    rates = sorted({run.arrivals for run in results.runs if run.arrivals})
    if not rates:
        return
    yield from (
        "",
        "Latency by rate: an open loop (Locust's scenario `overload`), with latency counted from the time each request",
        "was due. Medians of p50 and p99 in ms; in italics, where less than 95 % of the requests were answered during",
        "the run:",
        "",
        f"| p50 / p99 at requests/s of | {' | '.join(map(str, rates))} |",
        f"|---|{'---|' * len(rates)}",
    )
    for candidate in suite.candidates:
        cells = []
        for rate in rates:
            runs = results.of(candidate.name, 0, rate).values()
            if not runs:
                cells.append("")
                continue
            p50, p99 = (statistics.median(getattr(run, what) for run in runs) for what in ("p50", "p99"))
            kept_up = statistics.median(run.rate for run in runs) >= 0.95 * rate
            cells.append(f"{p50:.0f} / {p99:.0f}" if kept_up else f"*{p50:.0f} / {p99:.0f}*")
        if any(cells):
            yield f"| {candidate.name} | {' | '.join(cells)} |"


def _charts(suite: Suite) -> Iterator[str]:
    if not suite.charts:
        return
    for name, says in CHART_NAMES.items():
        if (CHARTS / f"{name}.svg").exists():
            yield from (f"![{says}](charts/{name}.svg)", "")


CHART_NAMES = {
    "connections": "Requests/s by connections",
    "slow-database": "Requests/s by connections with a database that takes 100 ms for each transaction",
    "arrivals": "99th percentile of latency by rate of arrivals",
    "workers": "Requests/s by workers",
}


def _list(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))
