"""What the users of a run know of the counters that they hit, and whether a counter can have told them the truth.

Each process keeps books of its own. Where Locust runs distributed, the workers send theirs to the master with their
statistics, and only the master's are whole. Numbers are kept as roaring bitmaps: a few bits each where they are dense.
"""

from collections import Counter, defaultdict
from typing import Any

from pyroaring import BitMap64

TWICE = "a number was given that had been given before"
NOT_RISING = "a number was not higher than one that was known before the request was sent"
OTHERWISE = "the same key was given another number"
BACKWARDS = "a counter was read at less than a number that it had given"


class Books:
    """The numbers that were given, by counter, and what was found to be wrong."""

    def __init__(self) -> None:
        self.given: defaultdict[str, BitMap64] = defaultdict(BitMap64)
        self.unknown: Counter[str] = Counter()
        """Hits that were sent and of which it is not known whether they were counted, by counter."""
        self.wrong: Counter[str] = Counter()
        """What was found to be wrong: sentences, and how often."""
        self._new: defaultdict[str, BitMap64] = defaultdict(BitMap64)

    def clear(self) -> None:
        """Forgets everything."""
        for kept in self.given, self._new, self.unknown, self.wrong:
            kept.clear()

    def send(self, counter: str) -> None:
        """Notes that a hit is sent. It stays unknown until it is given a number or refused."""
        self.unknown[counter] += 1

    def refuse(self, counter: str) -> None:
        """Notes that a hit that was sent was not counted."""
        self.unknown[counter] -= 1

    def give(self, counter: str, number: int, floor: int) -> str | None:
        """Notes a hit's number; `floor` is the highest that its user knew when it was sent. Returns what is wrong."""
        self.unknown[counter] -= 1
        if number in self.given[counter]:
            return self.find(TWICE)
        self.given[counter].add(number)
        self._new[counter].add(number)
        return self.find(NOT_RISING) if number <= floor else None

    def find(self, wrong: str) -> str:
        """Notes that something is wrong, and returns it."""
        self.wrong[wrong] += 1
        return wrong

    def check(self, counter: str, before: int, after: int) -> None:
        """Compares the counter's values before and after the run with what was given.

        It must have gone up by as much as was acknowledged and not by more than that and what is unknown.
        """
        given, rise = self.given[counter], after - before
        if given and (given.min() <= before or given.max() > after):
            self.find(f"{counter}: numbers from {given.min()} to {given.max()} were given between {before} and {after}")
        if not len(given) <= rise <= len(given) + self.unknown[counter]:
            unknown = self.unknown[counter]
            self.find(f"{counter}: it went up by {rise}, with {len(given)} hits acknowledged and {unknown} unknown")

    def report(self) -> dict[str, Any]:
        """Returns what is new since the last report, as msgpack takes it."""
        new = {
            "given": {counter: numbers.serialize() for counter, numbers in self._new.items()},
            "unknown": dict(self.unknown),
            "wrong": dict(self.wrong),
        }
        for kept in self._new, self.unknown, self.wrong:
            kept.clear()
        return new

    def add(self, report: dict[str, Any]) -> None:
        """Adds the report of another process, whose numbers must be new here too."""
        for counter, numbers in report["given"].items():
            self._add_numbers(counter, BitMap64.deserialize(numbers))
        self.unknown.update(report["unknown"])
        self.wrong.update(report["wrong"])

    def summary(self) -> str:
        """Returns a line for all counters together."""
        given = sum(map(len, self.given.values()))
        return f"{given} different numbers, {sum(self.unknown.values())} hits unknown"

    def _add_numbers(self, counter: str, numbers: BitMap64) -> None:
        if twice := len(self.given[counter] & numbers):
            self.wrong[TWICE] += twice
        self.given[counter] |= numbers
