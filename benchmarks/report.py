"""The report: ratios with their verdicts, rates and latencies of the kept runs of one machine, and RESULTS.md."""

import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks import kept
from benchmarks.kept import Results, load
from benchmarks.suites import SUITES, Suite
from benchmarks.verdicts import bound, figure, label, ratio, summary

FOLDER = Path(__file__).parent
RESULTS, CHARTS = FOLDER / "RESULTS.md", FOLDER / "charts"

INTRODUCTION = """# Results

Written by `./run bench`. Candidates are measured in turn (A B C A B C), so that what disturbs one disturbs all. A ratio
compares runs of the same round, by requests/s unless it names something else; the tables show the median of all rounds,
with the lowest and the highest. Load generator, service and database share the machine. The database is a fully durable
MariaDB (`log_bin`, `sync_binlog=1`, `innodb_flush_log_at_trx_commit=1`).
"""


def median_rate(results: Results, candidate: str, connections: int) -> float | None:
    runs = results.of(candidate, connections).values()
    return statistics.median(run.rate for run in runs) if runs else None


def render(results: Results) -> str:
    """Returns a suite's part of the report in Markdown: verdicts first, then rates and latencies, then all ratios."""
    suite = SUITES[results.suite]
    commands = " and ".join(f"`{command}`" for command in dict.fromkeys(results.commands))
    lines = [f"## {suite.title}", ""]
    if verdicts := list(summary(results, suite)):
        lines += [*verdicts, ""]
    lines += [f"{commands}, {results.date}, on {results.machine}; {results.software}.", ""]
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
        found = sorted(map(load, kept.KEPT.glob(f"*/{name}.json")), key=lambda one: (one.machine == machine, one.date))
        parts += [render(one) for one in found[-1:]]
    RESULTS.write_text("\n".join([INTRODUCTION, *parts]))


def _ratios(results: Results, suite: Suite) -> Iterator[str]:
    yield from (
        "",
        "| ratio | connections | median | lowest | highest | bound | p99, ratio | |",
        "|---|---|---|---|---|---|---|---|",
    )
    for claim in suite.claims:
        found = ratio(results, claim)
        if found is not None:
            median, lowest, highest, tails = map(figure, (found.median, found.lowest, found.highest, found.tails))
            yield (
                f"| {label(claim)} | {claim.connections} | **{median}** | {lowest} | {highest} | {bound(claim)} | "
                f"{tails} | {found.verdict} |"
            )


def _rates(results: Results, suite: Suite) -> Iterator[str]:
    connections = sorted({run.connections for run in results.runs if not run.arrivals})
    yield from (
        f"Medians of requests/s, and of p50 and p99 of latency in ms, at {_list(connections)} connections:",
        "",
        f"| requests/s (p50 / p99) | {' | '.join(map(str, connections))} | failed |",
        f"|---|{'---|' * (len(connections) + 1)}",
    )
    for candidate in suite.candidates:
        cells, failed = [], 0
        for number in connections:
            runs = results.of(candidate.name, number).values()
            failed += sum(run.failed for run in runs)
            if not runs:
                cells.append("")
                continue
            rate, p50, p99 = (statistics.median(getattr(run, what) for run in runs) for what in ("rate", "p50", "p99"))
            cells.append(f"{rate:.0f} ({_ms(p50)} / {_ms(p99)})")
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
    "connections": "Requests/s by connections with a fast and with a slow database",
    "slow-databases": "Requests/s by connections with a database that is far away, and with a slow disk",
    "arrivals": "99th percentile of latency by rate of arrivals",
    "workers": "Requests/s by workers",
}


def _ms(number: float) -> str:
    return f"{number:.1f}" if number < 10 else f"{number:.0f}"


def _list(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))
