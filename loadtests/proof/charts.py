"""Line charts as SVG, drawn by loadtests/proof/plot.py in an environment of its own: only charts need matplotlib."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.environments import environment

PLOT = Path(__file__).with_name("plot.py")

Points = Mapping[str, Sequence[tuple[float, float]]]
"""By the name of a line."""

Panels = Mapping[str, Points]
"""By title; they stand side by side with the same axes."""


def draw(
    path: Path, panels: Panels, x: str, y: str, *, log: bool = True, styles: Mapping[str, int] | None = None
) -> Path | None:
    """Writes a chart; returns its path, None where no line has a point: then there is no such file.

    Lines of the same name share a style. `styles`: the number of a line's colour and marker; without it, they are
    numbered in their order. Raises NotInstalled.
    """
    path.unlink(missing_ok=True)  # of another run, perhaps of another machine
    shown = {title: {label: points for label, points in lines.items() if points} for title, lines in panels.items()}
    shown = {title: lines for title, lines in shown.items() if lines}
    if not shown:
        return None
    labels = dict.fromkeys(label for lines in shown.values() for label in lines)
    numbers = {label: (styles or {}).get(label, number) for number, label in enumerate(labels)}
    path.parent.mkdir(parents=True, exist_ok=True)
    chart = {"path": str(path), "panels": shown, "styles": numbers, "x": x, "y": y, "log": log}
    subprocess.run([environment("charts"), PLOT], input=json.dumps(chart), text=True, check=True)
    return path
