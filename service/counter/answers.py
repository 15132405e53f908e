"""What a hit is answered: its receipt, or one of the errors below. All of them mean that it was not counted."""

from typing import NamedTuple

LARGEST = 2**53 - 1
"""The last number that JavaScript clients can tell from its neighbours; counters stop there."""


class Receipt(NamedTuple):
    """The numbers `first` to `last` were given under `key` (16 bytes)."""

    key: bytes
    first: int
    last: int


class NoSuchCounter(Exception):
    """No counter has this name."""


class CounterFull(Exception):
    """The amount would take the counter above 2^53 - 1."""


class KeyUsedOtherwise(Exception):
    """The Idempotency-Key was sent before with another amount."""
