"""What a hit is answered: its receipt, or one of the errors below. All of them mean that it was not counted."""

from http import HTTPStatus
from typing import NamedTuple

from service.platform.problems import Problem

LARGEST = 2**53 - 1
"""The last number that JavaScript clients can tell from its neighbours; counters stop there."""


class Receipt(NamedTuple):
    """The numbers `first` to `last` were given under `key` (16 bytes)."""

    key: bytes
    first: int
    last: int


class NoSuchCounter(Problem):
    """No counter has this name."""

    def __init__(self) -> None:
        super().__init__(HTTPStatus.NOT_FOUND, "no-such-counter", "There is no counter of this name.")


class CounterFull(Problem):
    """The amount would take the counter above its largest number."""

    def __init__(self) -> None:
        super().__init__(HTTPStatus.CONFLICT, "counter-full", f"A counter ends at {LARGEST}; this has no room for it.")


class KeyUsedOtherwise(Problem):
    """The Idempotency-Key was sent before with another amount."""

    def __init__(self) -> None:
        text = "This Idempotency-Key was sent before with another amount: use a new one for another request."
        super().__init__(HTTPStatus.UNPROCESSABLE_ENTITY, "key-used-otherwise", text)
