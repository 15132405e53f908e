"""A lane's queue: hits that wait for a transaction, first in, first out, up to their deadlines."""

import asyncio
from collections import deque
from collections.abc import Collection, Sequence

from service.counter import metrics
from service.counter.batch import Hit
from service.platform.database import Unavailable


class Capacity:
    """The limits of waiting hits: `queue` in one queue, `worker` in all queues of a worker together."""

    def __init__(self, *, queue: int, worker: int) -> None:
        self.queue = queue
        self.worker = worker
        self.waiting = 0
        """Hits in all queues of the worker."""

    def check(self, queued: int) -> None:
        """Raises Unavailable if a queue of this length is full, or the worker's queues together are."""
        if queued >= self.queue or self.waiting >= self.worker:
            metrics.QUEUE_FULL.inc()
            raise Unavailable("the queue of hits is full")


class HitQueue:
    """Starts empty. A hit whose deadline passes in the queue is answered 503."""

    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self._hits: deque[Hit] = deque()
        self._alarm: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._hits)

    def put(self, hit: Hit) -> None:
        """Appends a hit. The caller has checked the capacity."""
        self._hits.append(hit)
        self._capacity.waiting += 1
        if self._alarm is None:
            self._alarm = asyncio.get_running_loop().call_at(hit.deadline, self._refuse_late)

    @property
    def first(self) -> Hit:
        """The oldest hit. Raises IndexError if there is none."""
        return self._hits[0]

    def take(self, count: int, keys: Collection[str] = ()) -> list[Hit]:
        """Removes and returns up to `count` hits, oldest first, and none from the first on that has one of these keys.

        Hits whose callers have gone are dropped.
        """
        taken: list[Hit] = []
        while self._hits and len(taken) < count and self.first.key not in keys:
            hit = self._pop()
            if not hit.answer.done():
                taken.append(hit)
        return taken

    def put_back(self, hits: Sequence[Hit]) -> None:
        """Makes hits that were taken the first again."""
        self._hits.extendleft(reversed(hits))
        self._capacity.waiting += len(hits)

    def close(self) -> None:
        """Stops the deadline timer."""
        if self._alarm:
            self._alarm.cancel()

    def _pop(self) -> Hit:
        self._capacity.waiting -= 1
        return self._hits.popleft()

    def _refuse_late(self) -> None:
        loop = asyncio.get_running_loop()
        while self._hits and self._hits[0].deadline <= loop.time():
            metrics.QUEUE_LATE.inc()
            self._pop().refuse(Unavailable("the hit waited too long for its transaction"))
        soon = self._hits[0].deadline if self._hits else loop.time() + 1
        self._alarm = loop.call_at(soon, self._refuse_late)
