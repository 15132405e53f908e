"""The verdicts: the ratio that a claim is about, and whether it keeps the claim's bound."""

import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.kept import Results
from benchmarks.suites import Claim, Suite
from loadtests.proof.measuring import Run

KEEPS, WITHIN_SPREAD, MISSES = range(3)
"""Grades: the median keeps the bound; a round does, and the median does not; no round does."""

VERDICTS = "reached", "not reached, within the spread", "NOT REACHED"
PEER_VERDICTS = "no peer ahead", "peer ahead, within the spread", "PEER AHEAD"
MARKS = "", "*", "**"


@dataclass(frozen=True)
class Ratio:
    """The ratio of two candidates: median, lowest and highest round, and the median of their p99s' ratio."""

    claim: Claim
    median: float
    lowest: float
    highest: float
    tails: float

    @property
    def grade(self) -> int:
        """How the claim's bound is kept; KEEPS where there is none."""
        best = self.lowest if self.claim.at_most else self.highest
        return KEEPS if self.margin(self.median) >= 1 else WITHIN_SPREAD if self.margin(best) >= 1 else MISSES

    @property
    def verdict(self) -> str:
        if not self.claim.target:
            return ""
        return (PEER_VERDICTS if self.claim.peer else VERDICTS)[self.grade]

    @property
    def worst_first(self) -> tuple[int, float]:
        """The key by which ratios are sorted."""
        return -self.grade, self.margin(self.median)

    def margin(self, ratio: float) -> float:
        """Returns how far the ratio is on the right side of the bound: 1 is on it, less is beyond."""
        if not self.claim.target:
            return math.inf
        if self.claim.at_most:
            return self.claim.target / ratio if ratio else math.inf
        return ratio / self.claim.target


def ratio(results: Results, claim: Claim) -> Ratio | None:
    """Returns the ratio of a claim, None without runs of both in one round."""
    of, to = (results.of(name, claim.connections) for name in (claim.of, claim.to))
    pairs = [(of[number], to[number]) for number in of if number in to and to[number].rate > 0]
    ratios = [_value(one, claim) / value for one, other in pairs if (value := _value(other, claim))]
    if not ratios:
        return None
    tails = [one.p99 / other.p99 for one, other in pairs if other.p99 > 0] or [0.0]
    return Ratio(claim, statistics.median(ratios), min(ratios), max(ratios), statistics.median(tails))


def _value(run: Run, claim: Claim) -> float:
    if claim.quantity == "rate":
        return run.rate
    return run.p50 if run.rate else math.inf  # nothing was answered


def judged(results: Results, suite: Suite) -> list[Ratio]:
    """Returns the ratios of the claims that have a bound, the worst first."""
    found = (ratio(results, claim) for claim in suite.claims if claim.target)
    return sorted((one for one in found if one is not None), key=lambda one: one.worst_first)


def summary(results: Results, suite: Suite) -> Iterator[str]:
    """Yields a table of the judged ratios: a row for each two candidates and bound, a column for each number of
    connections; the row with the worst ratio first.
    """
    found = judged(results, suite)
    if not found:
        return
    connections = sorted({one.claim.connections for one in found})
    rows: dict[Claim, dict[int, Ratio]] = {}
    for one in found:
        rows.setdefault(one.claim._replace(connections=0), {})[one.claim.connections] = one
    yield from (
        "Ratios at so many connections, medians of the rounds, the worst row first. In **bold**, what misses its bound",
        "in every round; in *italics*, what misses it by the median, and keeps it in a round:",
        "",
        f"| ratio | bound | {' | '.join(map(str, connections))} | |",
        f"|---|---|{'---|' * len(connections)}---|",
    )
    for claim, row in rows.items():
        cells = (mark(row[number]) if number in row else "" for number in connections)
        worst = min(row.values(), key=lambda one: one.worst_first)
        yield f"| {label(claim)} | {bound(claim)} | {' | '.join(cells)} | {worst.verdict} |"


def sentence(found: Ratio) -> str:
    """Returns a judged ratio with its verdict, in a line."""
    spread = f"{figure(found.lowest)} to {figure(found.highest)}"
    return (
        f"{found.verdict}: {label(found.claim)}, {found.claim.connections} connections: "
        f"{figure(found.median)} ({spread}), bound {bound(found.claim)}"
    )


def label(claim: Claim) -> str:
    """Returns what is compared; what follows a semicolon in both names stands once."""
    (of, _, by), (to, _, other) = claim.of.partition("; "), claim.to.partition("; ")
    names = f"{of} / {to}; {by}" if by and by == other else f"{claim.of} / {claim.to}"
    return names if claim.quantity == "rate" else f"{claim.quantity} of {names}"


def bound(claim: Claim) -> str:
    """Returns the claim's bound as a reader sees it, `≥ 0.85`; nothing where there is none."""
    return f"{'≤' if claim.at_most else '≥'} {claim.target:g}" if claim.target else ""


def mark(found: Ratio) -> str:
    """Returns the median in Markdown, marked by its grade."""
    return f"{MARKS[found.grade]}{figure(found.median)}{MARKS[found.grade]}"


def figure(number: float) -> str:
    """Returns a ratio with two decimals, from 10 on with none."""
    return f"{number:.2f}" if number < 10 else f"{number:.0f}"
