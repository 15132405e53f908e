"""A run's thresholds, from thresholds.toml or another file of that format."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from locust.stats import RequestStats, StatsEntry
from msgspec import Meta

DEFAULT = Path(__file__).with_name("thresholds.toml")
NONE = "none"

_AtLeastZero = Annotated[float, Meta(ge=0)]


class Thresholds(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Of one scenario: requests/s at least, milliseconds at most, and the share of failures at most."""

    rate: _AtLeastZero | None = None
    p50: _AtLeastZero | None = None
    p95: _AtLeastZero | None = None
    p99: _AtLeastZero | None = None
    errors: Annotated[float, Meta(ge=0, le=1)] | None = None


class ThresholdsError(Exception):
    """The file is missing or malformed; the text says which, where and why."""


def load_thresholds(given: str, scenarios: list[str]) -> Mapping[str, Thresholds]:
    """Returns the file's thresholds by scenario, none at all for "none".

    Raises ThresholdsError where the file is missing or malformed, or has no table for one of the scenarios.
    """
    if given == NONE:
        return {}
    path = Path(given)
    try:
        found = msgspec.toml.decode(path.read_bytes(), type=dict[str, Thresholds])
    except (OSError, UnicodeDecodeError, msgspec.DecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ThresholdsError(f"{path}: {reason}.") from None
    if missing := set(scenarios) - set(found):
        raise ThresholdsError(
            f"{path}: it has no table [{missing.pop()}]: add one, or give `--thresholds {NONE}` for correctness alone."
        )
    return found


def entry_of(stats: RequestStats, scenario: str) -> StatsEntry:
    """Returns the scenario's requests as one entry. Their names begin with the scenario's."""
    total = StatsEntry(stats, scenario, "", use_response_times_cache=False)
    for (name, _), entry in stats.entries.items():
        if name.split(":")[0] == scenario:
            total.extend(entry)
    return total


def missed(entry: StatsEntry, wanted: Thresholds) -> Iterator[str]:
    """Yields a sentence for each threshold that the requests do not reach."""
    name = entry.name
    if entry.num_requests == 0:
        yield f"{name} sent no request"
        return
    if wanted.rate is not None and entry.total_rps < wanted.rate:
        yield f"{name} had {entry.total_rps:.1f} requests/s, less than {wanted.rate:g}"
    for percent, limit in (50, wanted.p50), (95, wanted.p95), (99, wanted.p99):
        if limit is not None and entry.get_response_time_percentile(percent / 100) > limit:
            found = entry.get_response_time_percentile(percent / 100)
            yield f"{name}'s p{percent} was {found:g} ms, more than {limit:g}"
    if wanted.errors is not None and entry.fail_ratio > wanted.errors:
        yield f"{entry.fail_ratio:.2%} of {name}'s requests failed, more than {wanted.errors:.2%}"
