"""A batch: the hits that share one transaction. It plans the transaction and answers the hits, and does no I/O."""

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import uuid_utils

from service.counter import metrics
from service.counter.errors import CounterFull, IdempotencyKeyReused
from service.counter.tables import LARGEST
from service.platform.database import OutcomeUnknown, Unavailable


class Receipt(NamedTuple):
    """The numbers `first` to `last` were given under `key` (16 bytes)."""

    key: bytes
    first: int
    last: int


class Replayed(Receipt):
    """One whose numbers were given to an earlier hit with the same Idempotency-Key."""


class Hit:
    """One request to count: `amount` numbers, under an Idempotency-Key or none. `deadline` is the event loop's time.

    `create`: a missing counter is created for it.
    """

    __slots__ = ("amount", "answer", "create", "deadline", "key", "since")

    def __init__(
        self, amount: int, key: str | None, answer: "asyncio.Future[Receipt]", deadline: float, *, create: bool = False
    ) -> None:
        self.amount = amount
        self.key = key
        self.answer = answer
        self.deadline = deadline
        self.create = create
        self.since = time.perf_counter()

    def accept(self, receipt: Receipt) -> None:
        """Answers the hit, unless its caller has gone."""
        if not self.answer.done():
            self.answer.set_result(receipt)

    def refuse(self, error: Exception) -> None:
        """Answers the hit with an error, unless its caller has gone."""
        if not self.answer.done():
            self.answer.set_exception(error)


class Plan(NamedTuple):
    """A transaction that adds `total` to the counter. Its receipts are numbered from 1, as if the count were 0."""

    total: int
    receipts: Sequence[Receipt]

    def receipts_at(self, count: int) -> dict[bytes, Receipt]:
        """Returns the receipts by key as they were written, `count` being the counter's new count."""
        before = count - self.total
        return {one.key: Receipt(one.key, before + one.first, before + one.last) for one in self.receipts}

    def is_done(self, receipts: Mapping[bytes, Receipt]) -> bool:
        """Whether these are, by key, the receipts that it wrote, and not those of others who used the same keys."""
        last = receipts.get(self.receipts[-1].key)
        return last is not None and self.receipts_at(last.last).items() <= receipts.items()


class Batch:
    """Starts empty and is filled once. `hits` are those that have no answer yet."""

    def __init__(self, *, needs_recovery: bool) -> None:
        self.hits: list[Hit] = []
        self.key = make_key()
        """The key of the receipt that hits without an Idempotency-Key share; the same in each attempt."""
        self.is_filled = False
        self.needs_recovery = needs_recovery
        """Whether an earlier attempt, of this batch or of one that was given up, may have counted."""
        self.in_doubt = False
        """Whether a lost connection may have counted it, or still may."""
        self.counter_id: int | None = None
        """Where it was last tried to count it."""

    @property
    def is_awaited(self) -> bool:
        """Whether any caller still waits."""
        return any(not hit.answer.done() for hit in self.hits)

    def fill(self, hits: Iterable[Hit]) -> None:
        """Sets the hits."""
        self.hits = list(hits)
        self.is_filled = True

    def receipt_keys(self, counter_id: int) -> list[bytes]:
        """Returns the receipt keys of the hits that have an Idempotency-Key."""
        return [receipt_key(counter_id, hit.key) for hit in self.hits if hit.key is not None]

    def plan(self, counter_id: int) -> Plan:
        """Returns the transaction that counts the hits: first those without an Idempotency-Key, which share a receipt.

        Then come those with one, each in the order of arrival; those with the same key share a receipt and its numbers.
        """
        total = sum(hit.amount for hit in self.hits if hit.key is None)
        receipts = {self.key: Receipt(self.key, 1, total)} if total else {}
        for hit in self.hits:
            if hit.key is not None:
                key = receipt_key(counter_id, hit.key)
                if key not in receipts:
                    receipts[key] = Receipt(key, total + 1, total + hit.amount)
                    total += hit.amount
        return Plan(total, list(receipts.values()))

    def settle(self, counter_id: int, receipts: Mapping[bytes, Receipt], *, are_earlier: bool = False) -> None:
        """Answers the hits whose receipts are among these, by key; the others remain.

        `are_earlier`: those with an Idempotency-Key were counted by earlier hits, and not by an attempt of this batch.
        """
        if not receipts:
            return
        left = []
        shared = receipts.get(self.key)
        first = shared.first if shared else 0
        seen: set[bytes] = set()
        for hit in self.hits:
            if hit.key is None:
                if shared:
                    hit.accept(Receipt(self.key, first, first + hit.amount - 1))
                    first += hit.amount
                else:
                    left.append(hit)
            elif receipt := receipts.get(receipt_key(counter_id, hit.key)):
                if receipt.last - receipt.first + 1 == hit.amount:
                    if are_earlier or receipt.key in seen:
                        metrics.REPLAYS.inc()
                        receipt = Replayed(*receipt)
                    hit.accept(receipt)
                    seen.add(receipt.key)
                else:
                    hit.refuse(IdempotencyKeyReused())
            else:
                left.append(hit)
        self.hits = left

    def refuse(self, hits: Sequence[Hit], error: Callable[[], Exception]) -> None:
        """Answers these hits with an error, a new one for each."""
        for hit in hits:
            hit.refuse(error())
        refused = set(map(id, hits))
        self.hits = [hit for hit in self.hits if id(hit) not in refused]

    def refuse_as_unknown(self, text: str) -> None:
        """Answers all hits with OutcomeUnknown: they may or may not have been counted."""
        self.refuse(self.hits, lambda: OutcomeUnknown(text))

    def refuse_late(self, now: float) -> None:
        """Answers the hits whose deadline has passed, unless it is not known whether they were counted."""
        if not self.in_doubt:
            late = [hit for hit in self.hits if hit.deadline <= now]
            self.refuse(late, lambda: Unavailable("the database was too busy"))

    def refuse_what_has_no_room(self, count: int) -> None:
        """Answers the hits that would take the counter, now at `count`, above its largest number, and no others."""
        without, keys = [], set()
        for hit in self.hits:
            if hit.key is not None and hit.key in keys:
                continue  # counted once with the other
            if count + hit.amount > LARGEST:
                without.append(hit)
            else:
                count += hit.amount
                keys.add(hit.key)
        self.refuse(without, CounterFull)


def make_key() -> bytes:
    """Returns a UUIDv7 (RFC 9562, 5.7), 16 bytes: receipts are then written one after the other in their index."""
    return uuid_utils.uuid7().bytes


def receipt_key(counter_id: int, key: str) -> bytes:
    """Returns the receipt's key, 16 bytes, for an Idempotency-Key, which is scoped to the counter."""
    return hashlib.blake2b(f"{counter_id} {key}".encode(), digest_size=16).digest()
