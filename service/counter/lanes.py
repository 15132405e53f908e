"""A worker's lanes, one for each counter that is being hit."""

import asyncio
import contextvars

from service.counter import metrics
from service.counter.batch import Hit, Receipt
from service.counter.connections import LaneConnections
from service.counter.hit_queue import Capacity, HitQueue
from service.counter.lane import Lane, LimitedDict
from service.counter.pace import Pace
from service.counter.settings import CounterSettings


class Lanes:
    """A worker's lanes. A lane exists while it has hits."""

    lane_class = Lane

    def __init__(self, connections: LaneConnections, settings: CounterSettings, queue_timeout: float) -> None:
        """`queue_timeout`: seconds that a hit waits for its transaction to begin."""
        self.settings = settings
        self.connections = connections
        self._queue_timeout = queue_timeout
        self._capacity = Capacity(queue=settings.lane_queue_size, worker=settings.worker_queue_size)
        self._ids = LimitedDict[int]()
        self._pace = Pace(settings.lane_transactions)
        self._lanes: dict[str, Lane] = {}
        self._crowded = LimitedDict[None]()
        """The counters whose lanes ended with a batch of several hits."""
        self._tasks: set[asyncio.Task[None]] = set()
        self.lost: dict[str, set[str]] = {}
        """By counter, lost connections that an ended lane has left to the next one."""
        metrics.WAITING.set_function(lambda: self._capacity.waiting)
        metrics.IN_FLIGHT.set_function(lambda: sum(lane.in_flight for lane in self._lanes.values()))
        metrics.CONNECTIONS.set(connections.size)
        metrics.IN_USE.set_function(lambda: connections.size - max(0, connections.spare))
        metrics.CONNECTIONS_WAITING.set_function(lambda: max(0, -connections.spare))

    async def hit(self, name: str, amount: int = 1, key: str | None = None, *, create: bool = False) -> Receipt:
        """Adds `amount` to the counter of that name, which is created if `create`; returns the durable numbers.

        Raises NoSuchCounter, CounterFull, IdempotencyKeyReused and Unavailable, which mean that it was not counted, and
        OutcomeUnknown. A caller that is cancelled may or may not have been counted.
        """
        lane = self._lanes.get(name)
        self._capacity.check(len(lane.queue) if lane else 0)
        if lane is None:
            lane = self._open(name)
        loop = asyncio.get_running_loop()
        hit = Hit(amount, key, loop.create_future(), loop.time() + self._queue_timeout, create=create)
        lane.put(hit)
        return await hit.answer

    async def close(self) -> None:
        """Waits until all lanes have answered their hits, and closes the connections."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        await self.connections.close()

    def _open(self, name: str) -> Lane:
        lane = self.lane_class(
            name,
            HitQueue(self._capacity),
            self.connections,
            self._ids,
            self._pace,
            batch_size=self.settings.batch_size,
            is_crowded=name in self._crowded,
            lost=self.lost.pop(name, set()),
        )
        self._lanes[name] = lane
        # In a context of its own: what the lane logs is not about the request that happened to open it.
        task = asyncio.create_task(self._run(lane), name=f"lane {name}", context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return lane

    async def _run(self, lane: Lane) -> None:
        try:
            await lane.run()
        finally:
            del self._lanes[lane.name]
            if lane.is_crowded:
                self._crowded[lane.name] = None
            else:
                self._crowded.pop(lane.name, None)
            if lane.lost:
                self.lost[lane.name] = lane.lost
