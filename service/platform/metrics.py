"""Metrics in Prometheus' format. An application adds its own in one line each, at a module's top:

    WRITTEN = counter("notes_written_total", "Notes that were written.")

and uses them as prometheus_client's (`WRITTEN.inc()`). docs/metrics.md has all of them; `/metrics` is in exposition.py.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

from service.platform.app import App

LIMIT = 200
"""How many sets of labels a metric has in a worker. What comes then is counted with the labels OTHER: each set costs
memory here and in Prometheus, and a label's value may be what a client has chosen."""

OTHER = "other"

NEVER_FOLDED = "status"
"""The label that keeps its value beyond LIMIT, since alerts are about it and no client chooses it."""

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0)
"""The upper bounds of a time's buckets; the last is what REQUEST_TIMEOUT may be."""

registry = CollectorRegistry()
"""This worker's metrics."""

maxima = {"process_start_time_seconds", "process_max_fds"}
"""The gauges of which a replica's value is its workers' largest."""

own: set[str] = set()
"""The gauges of which a replica's value is that of the worker which is asked."""

disable_created_metrics()  # type: ignore[no-untyped-call]


def counter(name: str, documentation: str, labels: Sequence[str] = ()) -> Counter:
    """Returns a new counter, whose name ends with `_total`. Raises ValueError if there is one of that name."""
    return _Counter(name, documentation, labels, registry=registry)


def gauge(
    name: str, documentation: str, labels: Sequence[str] = (), *, joined: Literal["sum", "max", "own"] = "sum"
) -> Gauge:
    """Returns a new gauge. Raises ValueError if there is one of that name.

    A replica's value is the sum of its workers' values, or the largest (`max`), or that of the worker which is asked
    (`own`), for what is measured before each scrape.
    """
    if joined != "sum":
        (maxima if joined == "max" else own).add(name)
    return _Gauge(name, documentation, labels, registry=registry)


def histogram(
    name: str, documentation: str, labels: Sequence[str] = (), *, buckets: Sequence[float] = SECONDS
) -> Histogram:
    """Returns a new histogram, by default of times. Raises ValueError if there is one of that name."""
    return _Histogram(name, documentation, labels, buckets=buckets, registry=registry)


def before_scrape(app: App, measure: Callable[[], Awaitable[None]]) -> None:
    """Has the worker which is asked for metrics call this first."""
    app.extensions.setdefault("before_scrape", []).append(measure)


class _Counter(Counter):
    def labels(self, *values: object, **named: object) -> Any:
        return super().labels(*_limited(self, values, named))


class _Gauge(Gauge):
    def labels(self, *values: object, **named: object) -> Any:
        return super().labels(*_limited(self, values, named))


class _Histogram(Histogram):
    def labels(self, *values: object, **named: object) -> Any:
        return super().labels(*_limited(self, values, named))


def _limited(
    metric: Counter | Gauge | Histogram, values: Sequence[object], named: Mapping[str, object]
) -> Sequence[object]:
    """Returns the values of the labels, in their order.

    Where they are new and there are LIMIT already, each is OTHER, except that of NEVER_FOLDED.
    """
    known, names = metric._metrics, metric._labelnames
    if named:
        if values or set(named) != set(names):
            raise ValueError(f"the labels are {', '.join(names)}")
        values = [named[name] for name in names]
    is_full = len(known) >= LIMIT and tuple(map(str, values)) not in known
    if not is_full:
        return values
    return [value if name == NEVER_FOLDED else OTHER for name, value in zip(names, values, strict=True)]
