"""The report's charts, as SVG. They have no background, and colours that can be read on light and on dark ones."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator, ScalarFormatter

from benchmarks import suites
from benchmarks.measuring import Run
from benchmarks.report import CHARTS, Results, median_rate

GREY = "#808080"  # contrast 3.9 on white, 5.3 on black
# Okabe and Ito's colours, which those who see colours differently can tell apart; black and yellow left out.
COLOURS = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"
MARKERS = "o", "s", "^", "D", "v", "P"

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tally",
    "font.family": "sans-serif",
    "font.size": 11,
    **{f"{what}.color": GREY for what in ("text", "xtick", "ytick")},
    **{f"axes.{what}color": GREY for what in ("edge", "label", "title")},
}
mpl.rcParams.update(_STYLE)

Points = Mapping[str, Sequence[tuple[float, float]]]
"""By the name of a line."""


def draw(results: Results) -> None:
    """Writes the charts of the suite `stacks` for which there are runs."""
    by_connections = "kept-alive connections"
    rate = "requests/s"
    _chart("connections", _rates(results, suites.ALL), by_connections, rate)
    _chart(
        "slow-database", _rates(results, suites.SLOW_ONES), by_connections, f"{rate}, each transaction 100 ms longer"
    )
    _chart("arrivals", _tails(results), "arrivals/s, whether or not answered", "p99, ms from when due")
    _chart("workers", _by_workers(results), "workers", f"{rate} at 256 connections", log=False)


def draw_users(runs: Iterable[Run]) -> Path | None:
    """Writes the chart of a comparison by users; returns its path."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for run in runs:
        lines.setdefault(run.candidate, []).append((run.connections, run.rate))
    return _chart("users", lines, "users", "requests/s")


def _rates(results: Results, names: Sequence[str]) -> Points:
    connections = sorted({run.connections for run in results.runs if not run.arrivals})
    return {
        name.removesuffix("; slow database"): [
            (number, rate) for number in connections if (rate := median_rate(results, name, number)) is not None
        ]
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
    lines = {suites.TALLY: (suites.ONE, suites.TALLY, suites.FOUR)}
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


def _chart(name: str, lines: Points, x: str, y: str, *, log: bool = True) -> Path | None:
    path = CHARTS / f"{name}.svg"
    path.unlink(missing_ok=True)  # of another run, perhaps of another machine
    lines = {label: points for label, points in lines.items() if points}
    if not lines:
        return None
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for label, points in lines.items():
        number = suites.ALL.index(label) if label in suites.ALL else list(lines).index(label)
        x_values, y_values = zip(*points, strict=True)
        axes.plot(x_values, y_values, color=COLOURS[number], marker=MARKERS[number], linewidth=2, label=label)
    _scale(axes, sorted({point[0] for points in lines.values() for point in points}), log=log)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color=GREY, alpha=0.25)
    for side in "top", "right":
        axes.spines[side].set_visible(False)
    figure.legend(loc="outside upper left", ncols=2, frameon=False)
    CHARTS.mkdir(exist_ok=True)
    figure.savefig(path, transparent=True, metadata={"Date": None})
    return path


def _scale(axes: Axes, ticks: Sequence[float], *, log: bool) -> None:
    if log:
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
        for formatted in axes.xaxis, axes.yaxis:
            formatted.set_major_formatter(ScalarFormatter())
    else:
        axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
