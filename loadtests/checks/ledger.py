"""The numbers that a run's users were given, and the violations among them.

Each process keeps a ledger. Where Locust runs distributed, the workers send theirs to the master with their statistics,
and only the master's is whole. Numbers are kept as roaring bitmaps: a few bits each where they are dense.
"""

from collections import Counter, defaultdict
from typing import Any

from pyroaring import BitMap64

DUPLICATE = "a number was given that had been given before"
NOT_RISING = "a number was not higher than one that was known before the request was sent"
KEY_CONFLICT = "the same key was given another number"
STALE_READ = "a counter was read at less than a number that it had given"


class Ledger:
    """The numbers that were given, by counter, and the violations that were found."""

    def __init__(self) -> None:
        self.numbers: defaultdict[str, BitMap64] = defaultdict(BitMap64)
        self.unknown: Counter[str] = Counter()
        """Hits with an unknown outcome, by counter: sent, and neither given a number nor refused."""
        self.violations: Counter[str] = Counter()
        """How often each was found, by its sentence."""
        self._new: defaultdict[str, BitMap64] = defaultdict(BitMap64)

    def clear(self) -> None:
        """Empties the ledger."""
        for kept in self.numbers, self._new, self.unknown, self.violations:
            kept.clear()

    def record_sent(self, counter: str) -> None:
        """Records that a hit is sent. Its outcome stays unknown until it is given a number or refused."""
        self.unknown[counter] += 1

    def record_refused(self, counter: str) -> None:
        """Records that a hit that was sent was not counted."""
        self.unknown[counter] -= 1

    def record_number(self, counter: str, number: int, floor: int) -> str | None:
        """Records a hit's number; `floor` is the highest that its user knew when it was sent. Returns a violation."""
        self.unknown[counter] -= 1
        if number in self.numbers[counter]:
            return self.record_violation(DUPLICATE)
        self.numbers[counter].add(number)
        self._new[counter].add(number)
        return self.record_violation(NOT_RISING) if number <= floor else None

    def record_violation(self, violation: str) -> str:
        """Records a violation, and returns it."""
        self.violations[violation] += 1
        return violation

    def check(self, counter: str, before: int, after: int) -> None:
        """Compares the counter's values before and after the run with the numbers given.

        It must have risen by at least the hits acknowledged, and by at most those and the ones with an unknown outcome.
        """
        numbers, rise = self.numbers[counter], after - before
        if numbers and (numbers.min() <= before or numbers.max() > after):
            given = f"numbers from {numbers.min()} to {numbers.max()} were given"
            self.record_violation(f"{counter}: {given} between {before} and {after}")
        if not len(numbers) <= rise <= len(numbers) + self.unknown[counter]:
            known = f"{len(numbers)} hits acknowledged and {self.unknown[counter]} unknown"
            self.record_violation(f"{counter}: it went up by {rise}, with {known}")

    def report(self) -> dict[str, Any]:
        """Returns the changes since the last report, in types that msgpack serializes."""
        new = {
            "numbers": {counter: numbers.serialize() for counter, numbers in self._new.items()},
            "unknown": dict(self.unknown),
            "violations": dict(self.violations),
        }
        for kept in self._new, self.unknown, self.violations:
            kept.clear()
        return new

    def merge(self, report: dict[str, Any]) -> None:
        """Adds the report of another process, whose numbers must be new here too."""
        for counter, numbers in report["numbers"].items():
            self._merge_numbers(counter, BitMap64.deserialize(numbers))
        self.unknown.update(report["unknown"])
        self.violations.update(report["violations"])

    def summary(self) -> str:
        """Returns a line for all counters together."""
        numbers = sum(map(len, self.numbers.values()))
        return f"{numbers} different numbers, {sum(self.unknown.values())} hits unknown"

    def _merge_numbers(self, counter: str, numbers: BitMap64) -> None:
        if duplicates := len(self.numbers[counter] & numbers):
            self.violations[DUPLICATE] += duplicates
        self.numbers[counter] |= numbers
