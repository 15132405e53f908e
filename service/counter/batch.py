"""A batch: the hits that share one transaction, in which order they get its numbers, and what is known about it."""

import asyncio
import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence

from service.counter.errors import CounterFull, IdempotencyKeyReused
from service.counter.sessions import Part, Receipt, Session
from service.counter.tables import LARGEST
from service.platform.database import OutcomeUnknown, Unavailable


class Hit:
    """One request to count: `amount` numbers, under an Idempotency-Key or none. `deadline` is the event loop's time."""

    __slots__ = ("amount", "answer", "deadline", "key")

    def __init__(self, amount: int, key: str | None, answer: "asyncio.Future[Receipt]", deadline: float) -> None:
        self.amount = amount
        self.key = key
        self.answer = answer
        self.deadline = deadline

    def refuse(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class Batch:
    """Starts empty. `hits` are those that have no answer yet."""

    def __init__(self, lost: list[str]) -> None:
        """`lost`: the sessions that an earlier batch of the counter has left."""
        self.hits: list[Hit] = []
        self.key = make_key()
        """Of the receipt for the hits without a key of their own; the same however often the batch is tried."""
        self.begun = False
        self.exact = bool(lost)
        """Whether it, or one that was given up, was tried before, and so must find out first what was done."""
        self.in_doubt = False
        """Whether a lost session may have counted it, or may still."""
        self.lost = lost
        """The sessions that may still hold the row."""

    def lose(self, session: Session) -> None:
        self.lost.append(session.name)
        self.in_doubt = self.in_doubt or session.has_counted

    def forget_doubts(self) -> None:
        """To be called when the row is locked and the receipts are read: nothing earlier can still happen."""
        self.lost.clear()
        self.in_doubt = False

    def is_awaited(self) -> bool:
        return any(not hit.answer.done() for hit in self.hits)

    def keys(self, counter_id: int) -> list[bytes]:
        """Returns the receipt keys of the hits that have a key of their own."""
        return [receipt_key(counter_id, hit.key) for hit in self.hits if hit.key is not None]

    def refuse(self, hits: Sequence[Hit], error: Callable[[], Exception]) -> None:
        """Answers these hits with an error, each with one of its own."""
        for hit in hits:
            hit.refuse(error())
        refused = set(map(id, hits))
        self.hits = [hit for hit in self.hits if id(hit) not in refused]

    def refuse_as_unknown(self, text: str) -> None:
        self.refuse(self.hits, lambda: OutcomeUnknown(text))

    def refuse_late(self, now: float) -> None:
        """Answers the hits that have waited for too long, unless it is not known whether they were counted."""
        if not self.in_doubt:
            late = [hit for hit in self.hits if hit.deadline <= now]
            self.refuse(late, lambda: Unavailable("the database was too busy"))

    def refuse_what_has_no_room(self, count: int) -> None:
        """Answers the hits that would take the counter above its largest number, and no others."""
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

    def answer_found(self, counter_id: int, found: Mapping[bytes, Receipt]) -> None:
        """Answers the hits whose receipts were found."""
        if not found:
            return
        if self.key in found:
            self._answer_plain(found[self.key].first)
        left = [hit for hit in self.hits if hit.key is None]
        for hit in self.hits:
            if hit.key is not None:
                receipt = found.get(receipt_key(counter_id, hit.key))
                if receipt is None:
                    left.append(hit)
                else:
                    _answer_keyed(hit, receipt)
        self.hits = left

    async def count(self, session: Session, counter_id: int) -> bool:
        """Counts the hits and answers them. Returns False, and has done nothing, if the counter is gone or full.

        First come those without a key, then those with one, each in the order in which they arrived.
        """
        plain = sum(hit.amount for hit in self.hits if hit.key is None)
        parts = [Part(self.key, 1, plain)] if plain else []
        keyed: dict[bytes, tuple[Part, list[Hit]]] = {}
        total = plain
        for hit in self.hits:
            if hit.key is not None:
                key = receipt_key(counter_id, hit.key)
                if key not in keyed:
                    keyed[key] = Part(key, total + 1, total + hit.amount), []
                    total += hit.amount
                keyed[key][1].append(hit)
        parts += [part for part, _ in keyed.values()]
        count = await session.count(counter_id, total, parts)
        if count is None:
            return False
        before = count - total
        self._answer_plain(before + 1)
        for part, hits in keyed.values():
            for hit in hits:
                _answer_keyed(hit, Receipt(part.key, before + part.first, before + part.last))
        self.hits = []
        return True

    def _answer_plain(self, first: int) -> None:
        for hit in self.hits:
            if hit.key is None:
                if not hit.answer.done():
                    hit.answer.set_result(Receipt(self.key, first, first + hit.amount - 1))
                first += hit.amount
        self.hits = [hit for hit in self.hits if hit.key is not None]


def _answer_keyed(hit: Hit, receipt: Receipt) -> None:
    if receipt.last - receipt.first + 1 != hit.amount:
        hit.refuse(IdempotencyKeyReused())
    elif not hit.answer.done():
        hit.answer.set_result(receipt)


def make_key() -> bytes:
    """Returns a UUIDv7 (RFC 9562, 5.7), 16 bytes: receipts are then written one after the other in their index."""
    milliseconds = time.time_ns() // 1_000_000
    chance = int.from_bytes(os.urandom(10))
    value = milliseconds << 80 | 7 << 76 | (chance >> 68) << 64 | 2 << 62 | chance & (1 << 62) - 1
    return value.to_bytes(16)


def receipt_key(counter_id: int, key: str) -> bytes:
    """Returns the key, 16 bytes, under which the receipt of an Idempotency-Key is kept: one of a counter's own."""
    return hashlib.blake2b(f"{counter_id} {key}".encode(), digest_size=16).digest()
