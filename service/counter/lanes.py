"""Counting: each worker has, for each counter that is being hit, one lane, which takes one transaction at a time.

A hit joins its lane's queue and waits. While the lane's transaction is in flight the queue grows; when it has ended,
all that wait go into the next one. Only after its commit are they answered, so no client knows of a number that is not
durable, and nothing that a client was told is kept in memory alone.

A batch is tried once as if nothing could go wrong. Whatever does go wrong, there is one way on (`_settle_exactly`): end
the session that was lost, lock the counter's row, see in the receipts what was done, and do the rest under the same
keys. The row's lock makes that exact: whatever happened before is over and visible.
"""

import asyncio
import contextvars
import itertools
import logging
from collections import deque
from functools import partial

from service.counter.batch import Batch, Hit
from service.counter.errors import NoSuchCounter
from service.counter.sessions import Lost, NotConnected, NotDone, Receipt, Session, Sessions
from service.counter.settings import CounterSettings
from service.platform.database import Unavailable
from service.platform.mysql_errors import (
    ER_DUP_ENTRY,
    ER_LOCK_DEADLOCK,
    ER_LOCK_WAIT_TIMEOUT,
    ER_QUERY_INTERRUPTED,
    ER_QUERY_TIMEOUT,
    ER_STATEMENT_TIMEOUT,
)

_PASSING = {
    ER_LOCK_WAIT_TIMEOUT,
    ER_LOCK_DEADLOCK,
    ER_QUERY_INTERRUPTED,
    ER_QUERY_TIMEOUT,
    ER_STATEMENT_TIMEOUT,
    ER_DUP_ENTRY,
}
"""Errors against which a rerun helps. DUP_ENTRY: another worker has just used one of the keys, and its receipt will be
found."""

_DELAYS = 0.0, 0.05, 0.1, 0.2, 0.5, 1.0
"""Seconds before the first, second, … rerun; the last from then on."""

_QUIET_TURNS = 3
"""Turns of the event loop without a new hit after which a batch is closed. On 2 cores, against no waiting: 1.14 times
the rate and 3.6 times the hits a transaction at 256 connections, 1.04 and 1.7 at 64; 8 turns gave no higher rate."""

_LONGEST_GATHERING = 0.02
"""Seconds after which a batch is closed however many come in."""

_KNOWN_IDS = 10_000
"""How many counters' ids a worker remembers."""

log = logging.getLogger(__name__)


class Lanes:
    """All lanes of a worker. A lane is there while it has hits, and costs nothing afterwards."""

    def __init__(self, sessions: Sessions, settings: CounterSettings, queue_timeout: float) -> None:
        """`queue_timeout`: seconds that a hit waits for its transaction to begin."""
        self.sessions = sessions
        self.settings = settings
        self.waiting = 0
        self.ids: dict[str, int] = {}
        self.lost: dict[str, list[str]] = {}
        """By counter, the sessions of batches that were given up: they may still hold the row."""
        self._queue_timeout = queue_timeout
        self._lanes: dict[str, Lane] = {}

    async def hit(self, name: str, amount: int = 1, key: str | None = None, *, create: bool = False) -> Receipt:
        """Counts `amount` on the counter of that name, which is made if `create`; returns the durable numbers.

        Raises NoSuchCounter, CounterFull, IdempotencyKeyReused and Unavailable, which mean that it was not counted, and
        OutcomeUnknown. A caller that is cancelled may or may not have been counted.
        """
        lane = self._lanes.get(name)
        queued = len(lane.queue) if lane else 0
        if queued >= self.settings.lane_queue_size or self.waiting >= self.settings.worker_queue_size:
            raise Unavailable("the queue of hits is full")
        if lane is None:
            lane = self._lanes[name] = Lane(self, name)
        loop = asyncio.get_running_loop()
        hit = Hit(amount, key, loop.create_future(), loop.time() + self._queue_timeout)
        lane.add(hit, create=create)
        return await hit.answer

    def remember(self, name: str, counter_id: int) -> None:
        if len(self.ids) >= _KNOWN_IDS:
            self.ids.clear()
        self.ids[name] = counter_id

    def remove(self, name: str) -> None:
        """Forgets a lane that has nothing to do."""
        del self._lanes[name]

    async def close(self) -> None:
        """Returns when all lanes have ended, which they do once nobody waits, and the sessions are closed."""
        while self._lanes:
            await asyncio.wait([lane.task for lane in self._lanes.values()])
        await self.sessions.close()


class Lane:
    """The hits of one counter in one worker, and the task that counts them, batch after batch."""

    def __init__(self, lanes: Lanes, name: str) -> None:
        self.queue: deque[Hit] = deque()
        # In a context of its own: what the lane logs is not about the request that happened to make it.
        self.task = asyncio.create_task(self._run(), name=f"lane {name}", context=contextvars.Context())
        self._lanes = lanes
        self._name = name
        self._create = False
        self._alarm: asyncio.TimerHandle | None = None

    def add(self, hit: Hit, *, create: bool) -> None:
        self.queue.append(hit)
        self._lanes.waiting += 1
        self._create = self._create or create
        if self._alarm is None:
            self._alarm = asyncio.get_running_loop().call_at(hit.deadline, self._refuse_late)

    async def _run(self) -> None:
        try:
            while self.queue:
                batch = Batch(self._lanes.lost.pop(self._name, []))
                try:
                    await self._settle(batch)
                except Exception:  # a defect of ours, which must not stop the lane
                    log.exception("counter %s: a batch was given up", self._name)
                    self._fill(batch)
                    batch.refuse_as_unknown("a defect of the service")
                    await asyncio.sleep(_DELAYS[-1])
                if batch.lost:
                    self._lanes.lost[self._name] = batch.lost
        finally:
            if self._alarm:
                self._alarm.cancel()
            self._lanes.remove(self._name)

    async def _settle(self, batch: Batch) -> None:
        """Returns once each hit of a batch, which is taken from the queue, has its answer or nobody waits for one."""
        for rerun in itertools.count():
            session = None
            try:
                async with self._lanes.sessions.session() as session:
                    if not batch.begun:
                        await self._gather()
                    self._fill(batch)
                    settle = self._settle_exactly if batch.exact else self._settle_quickly
                    if not batch.hits or await settle(session, batch):
                        return
            except (NotConnected, NotDone) as error:
                self._fill(batch)
                passing = isinstance(error, NotDone) and error.code in _PASSING
                if not batch.in_doubt and not passing:
                    log.warning("counter %s: %s", self._name, error)
                    batch.refuse(batch.hits, partial(Unavailable, str(error)))
            except Lost as error:
                log.warning("counter %s: session lost (%s)", self._name, error)
            if session is not None and session.is_lost:
                batch.lose(session)
            batch.exact = True
            batch.refuse_late(asyncio.get_running_loop().time())
            if not batch.is_awaited():
                return
            await asyncio.sleep(_DELAYS[min(rerun, len(_DELAYS) - 1)])

    async def _gather(self) -> None:
        """Waits while hits come in, so that those which are being read now need no transaction of their own."""
        end = asyncio.get_running_loop().time() + _LONGEST_GATHERING
        quiet, before = 0, len(self.queue)
        while quiet < _QUIET_TURNS and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0)
            quiet = quiet + 1 if len(self.queue) == before else 0
            before = len(self.queue)

    def _fill(self, batch: Batch) -> None:
        """Takes from the queue what still waits, unless the batch has its hits already."""
        while not batch.begun and self.queue and len(batch.hits) < self._lanes.settings.batch_size:
            self._lanes.waiting -= 1
            hit = self.queue.popleft()
            if not hit.answer.done():
                batch.hits.append(hit)
        batch.begun = True

    def _refuse_late(self) -> None:
        """Answers hits that have waited for too long for a transaction that has not begun."""
        loop = asyncio.get_running_loop()
        while self.queue and self.queue[0].deadline <= loop.time():
            self._lanes.waiting -= 1
            self.queue.popleft().refuse(Unavailable("the hit waited too long for its transaction"))
        soon = self.queue[0].deadline if self.queue else loop.time() + 1
        self._alarm = loop.call_at(soon, self._refuse_late)

    async def _settle_quickly(self, session: Session, batch: Batch) -> bool:
        """Counts a batch of which nothing was tried yet. Returns whether that did it."""
        counter_id = await self._find(session)
        if counter_id is None:
            batch.refuse(batch.hits, NoSuchCounter)
            return True
        if keys := batch.keys(counter_id):
            batch.answer_found(counter_id, await session.look_up(counter_id, keys))
        return not batch.hits or await batch.count(session, counter_id)

    async def _settle_exactly(self, session: Session, batch: Batch) -> bool:
        """Counts what is not counted yet of a batch that was tried before. Returns whether that did it."""
        for name in batch.lost:
            await session.kill(name)
        counter_id = await self._find(session)
        count = None if counter_id is None else await session.lock(counter_id)
        if counter_id is None or count is None:
            self._lanes.ids.pop(self._name, None)
            batch.lost.clear()  # there is no row that they could hold
            if batch.in_doubt:
                batch.refuse_as_unknown("the counter was deleted meanwhile")
                return True
            if counter_id is None:
                batch.refuse(batch.hits, NoSuchCounter)
            return counter_id is None
        found = await session.look_up(counter_id, [batch.key, *batch.keys(counter_id)])
        batch.forget_doubts()
        batch.answer_found(counter_id, found)
        batch.refuse_what_has_no_room(count)
        return not batch.hits or await batch.count(session, counter_id)

    async def _find(self, session: Session) -> int | None:
        counter_id = self._lanes.ids.get(self._name)
        if counter_id is None:
            counter_id = await session.find(self._name)
            if counter_id is None and self._create:
                await session.create(self._name)
                counter_id = await session.find(self._name)
            if counter_id is not None:
                self._lanes.remember(self._name, counter_id)
        return counter_id
