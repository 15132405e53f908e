"""The report's charts: which panels and lines each has."""

import statistics
from collections.abc import Sequence

from benchmarks import report, suites
from benchmarks.kept import Results
from benchmarks.report import median_rate
from benchmarks.slow_disk import SYNC
from loadtests.proof.charts import Panels, Points
from loadtests.proof.charts import draw as draw_chart
from loadtests.proof.stacks import TALLY

STYLES = {name: number for number, name in enumerate(suites.ALL)}
"""A stack has the same colour in all charts."""


def draw(results: Results) -> None:
    """Writes the charts of the suite `stacks` for which there are runs. Raises NotInstalled."""
    by_connections, rate = "kept-alive connections", "requests/s"
    both = {
        "fast database": _rates(results, suites.ALL),
        "slow database: each transaction 100 ms longer": _on(results, suites.SLEEPING),
    }
    _chart("connections", both, by_connections, rate)
    others = {
        suites.NEAR: _on(results, suites.NEAR),
        suites.FAR: _on(results, suites.FAR),
        f"{suites.SLOW_DISK}: each sync {SYNC * 1000:.0f} ms longer": _on(results, suites.SLOW_DISK),
    }
    _chart("slow-databases", others, by_connections, rate)
    _chart("arrivals", {"": _tails(results)}, "arrivals/s, whether or not answered", "p99, ms from when due")
    _chart("workers", {"": _by_workers(results)}, "workers", f"{rate} at 256 connections", log=False)


def _chart(name: str, panels: Panels, x: str, y: str, *, log: bool = True) -> None:
    draw_chart(report.CHARTS / f"{name}.svg", panels, x, y, log=log, styles=STYLES)


def _on(results: Results, database: str) -> Points:
    """Returns the rates of Tally and its peers on a slow database, by their names without it."""
    found = _rates(results, [suites.on(database, name) for name in (TALLY, *suites.PEERS)])
    return {name.removesuffix(f"; {database}"): points for name, points in found.items()}


def _rates(results: Results, names: Sequence[str]) -> Points:
    connections = sorted({run.connections for run in results.runs if not run.arrivals})
    return {
        name: [(number, rate) for number in connections if (rate := median_rate(results, name, number))]
        for name in names
    }


def _tails(results: Results) -> Points:
    arrivals = sorted({run.arrivals for run in results.runs if run.arrivals})
    names = dict.fromkeys(run.candidate for run in results.runs if run.arrivals)
    return {
        name: [
            (rate, statistics.median(run.p99 for run in runs))
            for rate in arrivals
            if (runs := results.of(name, 0, rate).values())
        ]
        for name in names
    }


def _by_workers(results: Results) -> Points:
    lines = {TALLY: (suites.ONE, TALLY, suites.FOUR)}
    lines[suites.CEILING] = (suites.CEILING_ONE, suites.CEILING, suites.CEILING_FOUR)
    found = {
        name: [
            (workers, rate)
            for workers, one in zip((1, 2, 4), of, strict=True)
            if (rate := median_rate(results, one, 256)) is not None
        ]
        for name, of in lines.items()
    }
    return found if all(len(points) == 3 for points in found.values()) else {}
