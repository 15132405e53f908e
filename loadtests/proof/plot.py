"""Draws line charts side by side, which standard input describes as loadtests/proof/charts.py writes it.

SVG without a background, in colours that can be read on light and on dark ones.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator, ScalarFormatter

GREY = "#808080"  # contrast 3.9 on white, 5.3 on black
# Okabe and Ito's palette, which colour-blind readers can tell apart; without black and yellow.
COLOURS = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"
MARKERS = "o", "s", "^", "D", "v", "P"

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "charts",
    "font.family": "sans-serif",
    "font.size": 11,
    **{f"{what}.color": GREY for what in ("text", "xtick", "ytick")},
    **{f"axes.{what}color": GREY for what in ("edge", "label", "title")},
}


def plot(chart: dict[str, Any]) -> None:
    mpl.rcParams.update(STYLE)
    panels = chart["panels"]
    figure = Figure(figsize=(min(4 + 4 * len(panels), 12), 4.5), layout="constrained")
    drawn = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    ticks = sorted({point[0] for lines in panels.values() for points in lines.values() for point in points})
    keys: dict[str, Any] = {}
    for axes, (title, lines) in zip(drawn, panels.items(), strict=True):
        for label, points in lines.items():
            number = chart["styles"][label] % len(COLOURS)
            x, y = zip(*points, strict=True)
            (keys[label],) = axes.plot(x, y, color=COLOURS[number], marker=MARKERS[number], linewidth=2, label=label)
        scale(axes, ticks, log=chart["log"])
        axes.set_title(title)
        axes.set_xlabel(chart["x"])
        axes.grid(color=GREY, alpha=0.25)
        for side in "top", "right":
            axes.spines[side].set_visible(False)
    drawn[0].set_ylabel(chart["y"])
    figure.legend(handles=list(keys.values()), loc="outside upper left", ncols=1 + len(panels), frameon=False)
    figure.savefig(chart["path"], transparent=True, metadata={"Date": None})


def scale(axes: Axes, ticks: Sequence[float], *, log: bool) -> None:
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


if __name__ == "__main__":
    plot(json.load(sys.stdin))
