"""Group commit: the hits that wait for a counter share one transaction, and are answered when it is committed.

The term is from DeWitt and others, Implementation Techniques for Main Memory Database Systems, SIGMOD 1984
(https://doi.org/10.1145/602259.602261), where transactions share a write of the log. Here requests share the
transaction.

Each worker has one lane for each counter that is being hit. While its transaction is in flight, hits wait in the lane's
queue, and all of them go into the next one. That begins when the one before has ended, or, where the database is slow,
beside it (`pace`): the row's lock orders the numbers, however many transactions are in flight. No client knows of a
number that is not durable, and nothing that a client was told is kept in memory alone.

A batch of hits is in one of three states:

| state         | what the lane does                                | what ends it                                     |
|---------------|---------------------------------------------------|--------------------------------------------------|
| first attempt | looks up the Idempotency-Keys, counts the rest    | all hits are answered: done                      |
|               |                                                   | an error that is neither transient nor leaves    |
|               |                                                   | a doubt: all hits are refused, done              |
|               |                                                   | any other error: recovery                        |
| recovery      | kills the lost connections, locks the row, looks  | all hits are answered: done                      |
|               | up the receipts of the whole batch, counts the    | an error: as above; recovery follows on recovery |
|               | rest under the same keys                          | after a delay; no caller waits: given up         |
| given up      | leaves the lost connections to the next batch,    |                                                  |
|               | which begins with recovery                        |                                                  |

The row's lock makes recovery exact: whatever happened before is over and visible. The lost connections of a counter are
one set for all its batches, and each batch settles by its own receipts. A hit whose key is in an open batch waits until
that has ended. A batch that the server refuses as too large puts half of its hits back into the queue before it tries
again.
"""

import asyncio
import contextvars
import itertools
import logging
import time
from functools import partial
from typing import TypeVar

from service.counter import metrics
from service.counter.batch import Batch, Hit
from service.counter.connections import ConnectionLost, LaneConnection, LaneConnections, NotConnected, StatementRefused
from service.counter.errors import NoSuchCounter
from service.counter.hit_queue import HitQueue
from service.counter.pace import Pace
from service.platform.database import Unavailable
from service.platform.mysql_errors import (
    ER_DUP_ENTRY,
    ER_LOCK_DEADLOCK,
    ER_LOCK_WAIT_TIMEOUT,
    ER_PACKET_TOO_LARGE,
    ER_QUERY_INTERRUPTED,
    ER_QUERY_TIMEOUT,
    ER_STATEMENT_TIMEOUT,
)

_TRANSIENT = {
    ER_LOCK_WAIT_TIMEOUT,
    ER_LOCK_DEADLOCK,
    ER_QUERY_INTERRUPTED,
    ER_QUERY_TIMEOUT,
    ER_STATEMENT_TIMEOUT,
    ER_DUP_ENTRY,
}
"""Errors against which another attempt helps by itself. DUP_ENTRY: another worker has just used one of the keys, and
its receipt will be found."""

_DELAYS = 0.0, 0.05, 0.1, 0.2, 0.5, 1.0
"""Seconds before the second, third, … attempt; the last from then on."""

_QUIET_TURNS = 3
"""Turns of the event loop without a new hit after which a batch is closed. On 2 cores, against no waiting: 1.14 times
the rate and 3.6 times the hits a transaction at 256 connections, 1.04 and 1.7 at 64; 8 turns gave no higher rate."""

_LONGEST_GATHERING = 0.02
"""Seconds after which a batch is closed however many come in."""

_LOOK_AGAIN = 0.01
"""Seconds after which a lane whose next batch is due, and may not begin beside the others, looks again at the least."""

_KNOWN = 10_000
"""How many counters a worker remembers."""

_T = TypeVar("_T")

log = logging.getLogger(__name__)


class LimitedDict(dict[str, _T]):
    """By the names of up to _KNOWN counters; it is emptied when it is full."""

    def __setitem__(self, name: str, value: _T) -> None:
        if len(self) >= _KNOWN:
            self.clear()
        super().__setitem__(name, value)


class Lane:
    """The hits of one counter in one worker, counted in batches, of which several may be in flight."""

    def __init__(
        self,
        name: str,
        queue: HitQueue,
        connections: LaneConnections,
        ids: LimitedDict[int],
        pace: Pace,
        *,
        batch_size: int,
        is_crowded: bool,
        lost: set[str],
    ) -> None:
        self.name = name
        self.queue = queue
        self.lost = lost
        """The names of lost connections that may still hold the counter's row."""
        self._connections = connections
        self._ids = ids
        self._pace = pace
        self._batch_size = batch_size
        self._open: list[Batch] = []
        """In flight, or about to be."""
        self._begun = 0.0
        """When the last batch was filled, by time.perf_counter()."""
        self._alone_until = 0.0
        """Until when no batch begins beside others, since there was no connection for one."""
        self.is_crowded = is_crowded
        """Whether hits came together, or while others were in flight, when the last batch began."""
        self._timer: asyncio.TimerHandle | None = None

    @property
    def in_flight(self) -> int:
        """How many of its transactions have begun and not ended."""
        return sum(batch.is_filled for batch in self._open)

    def put(self, hit: Hit) -> None:
        """Appends a hit to the queue."""
        self.queue.put(hit)
        self._set_timer()

    async def run(self) -> None:
        """Processes batches until the queue is empty and none is in flight."""
        try:
            while self.queue:
                async with asyncio.TaskGroup() as self._tasks:
                    await self._process_batches()
        finally:
            self.queue.close()
            if self._timer:
                self._timer.cancel()

    async def _process_batches(self) -> None:
        """Processes batches one after another, as long as the next may begin."""
        while self._may_begin():
            batch = Batch(needs_recovery=bool(self.lost))
            is_beside = any(other.is_filled for other in self._open)
            self._open.append(batch)
            try:
                await self._process(batch, is_beside=is_beside)
            except Exception:  # a bug, which must not stop the lane
                log.exception("counter %s: a batch was given up", self.name)
                self._fill(batch)
                batch.refuse_as_unknown("a bug of the service")
                await asyncio.sleep(_DELAYS[-1])
            finally:
                self._open.remove(batch)
            self.is_crowded = self.is_crowded or bool(self.queue)
        self._set_timer()

    def _may_begin(self) -> bool:
        """Whether the next batch may begin: at once where none is in flight; beside others, as the pace says.

        Beside others it takes no session for which another lane waits, nor the last that is free. A batch without
        hits is none of them: where its session is long in coming, hits go with one that has just become free.
        """
        if not self.queue or not any(batch.is_filled for batch in self._open):
            return bool(self.queue)
        return (
            len(self._open) < self._pace.transactions
            and self._seconds_left() <= 0
            and self._connections.spare >= 2
            and self.queue.first.key not in self._open_keys()
        )

    def _begin_another(self) -> None:
        self._timer = None
        if self._open and all(batch.is_filled for batch in self._open) and self._may_begin():
            self._tasks.create_task(self._process_batches(), context=contextvars.Context())
        else:
            self._set_timer(_LOOK_AGAIN)

    def _set_timer(self, least: float = 0.0) -> None:
        """Looks whether the next batch may begin when it is due; if it is due, a little later, for others to join.

        Looks in so many seconds at the `least`, where it was due and might not begin.

        Not while one has no session yet, for which many lanes may wait: it takes the hits, and sets the timer then.
        """
        is_useful = self.queue and 0 < len(self._open) < self._pace.transactions
        if self._timer is None and is_useful and all(batch.is_filled for batch in self._open):
            left = self._seconds_left()
            later = left if left > 0 else max(least, self._pace.seconds_to_join(len(self._open)))
            self._timer = asyncio.get_running_loop().call_later(later, self._begin_another)

    def _seconds_left(self) -> float:
        """Returns the seconds until the next batch is due beside those in flight."""
        due = self._begun + self._pace.seconds(len(self._open))
        return max(due, self._alone_until) - time.perf_counter()

    def _open_keys(self) -> set[str]:
        """Returns the Idempotency-Keys of the hits that are being counted."""
        return {hit.key for batch in self._open for hit in batch.hits if hit.key is not None}

    async def _process(self, batch: Batch, *, is_beside: bool) -> None:
        """Fills the batch, and returns when all its hits are answered or it is given up.

        One that begins beside others leaves the hits in the queue if there is no connection for it.
        """
        for failed in itertools.count():
            connection = None
            try:
                async with self._connections.connection() as connection:
                    if not batch.is_filled:
                        await self._gather()
                    self._fill(batch)
                    attempt = self._recover if batch.needs_recovery else self._first_attempt
                    if not batch.hits or await attempt(connection, batch):
                        return
            except (NotConnected, StatementRefused) as error:
                if is_beside and not batch.is_filled:
                    self._alone_until = time.perf_counter() + _DELAYS[-1]
                    return
                self._fill(batch)
                code = error.code if isinstance(error, StatementRefused) else None
                retry = code in _TRANSIENT or (code == ER_PACKET_TOO_LARGE and self._halve(batch))
                if not batch.in_doubt and not retry:
                    log.warning("counter %s: %s", self.name, error)
                    batch.refuse(batch.hits, partial(Unavailable, str(error)))
            except ConnectionLost as error:
                log.warning("counter %s: connection lost (%s)", self.name, error)
            finally:
                if connection is not None and connection.is_lost:
                    self.lost.add(connection.name)
                    batch.in_doubt = batch.in_doubt or connection.may_have_counted
            batch.needs_recovery = True
            batch.refuse_late(asyncio.get_running_loop().time())
            if not batch.is_awaited:
                return
            await asyncio.sleep(_DELAYS[min(failed, len(_DELAYS) - 1)])
            metrics.RETRIES.inc()

    async def _gather(self) -> None:
        """Waits while hits arrive, so that requests that are being read now join this batch."""
        if self._pace.overlaps or (len(self.queue) == 1 and not self.is_crowded):
            return  # the next transaction is near, or nobody else comes
        end = asyncio.get_running_loop().time() + _LONGEST_GATHERING
        quiet, before = 0, len(self.queue)
        while quiet < _QUIET_TURNS and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0)
            quiet = quiet + 1 if len(self.queue) == before else 0
            before = len(self.queue)

    def _fill(self, batch: Batch) -> None:
        if not batch.is_filled:
            batch.fill(self.queue.take(self._batch_size, self._open_keys()))
            self._begun = time.perf_counter()
            for hit in batch.hits:
                metrics.WAIT.observe(self._begun - hit.since)
            self.is_crowded = len(batch.hits) > 1
            self._set_timer()

    def _halve(self, batch: Batch) -> bool:
        """Puts the later half of the hits back into the queue, and returns whether that helps.

        A batch in doubt keeps its hits, by which its receipt is read; it fitted when it was sent.
        """
        if batch.in_doubt or len(batch.hits) < 2:
            return False
        self._batch_size = len(batch.hits) // 2
        log.warning(
            "counter %s: %d hits exceed the server's max_allowed_packet: raise it, or set LANE_BATCH_SIZE=%d",
            *(self.name, len(batch.hits), self._batch_size),
        )
        self.queue.put_back(batch.hits[self._batch_size :])
        batch.hits = batch.hits[: self._batch_size]
        return True

    async def _first_attempt(self, connection: LaneConnection, batch: Batch) -> bool:
        """The first attempt. Returns whether all hits are answered."""
        begun = time.perf_counter()
        counter_id = await self._find(connection, batch)
        if counter_id is None:
            batch.refuse(batch.hits, NoSuchCounter)
            return True
        if keys := batch.receipt_keys(counter_id):
            batch.settle(counter_id, await connection.look_up(counter_id, keys), are_earlier=True)
        is_counted = await self._count(connection, batch, counter_id)
        if connection.times:
            self._pace.note(begun, connection.times)
            metrics.TRANSACTION.observe(connection.times.committed - begun)
            metrics.AT_LOCK.observe(connection.times.committed - connection.times.at_lock)
        return is_counted

    async def _recover(self, connection: LaneConnection, batch: Batch) -> bool:
        """Finds out what an earlier attempt counted, and counts the rest. Returns whether all hits are answered."""
        killed = list(self.lost)  # others may lose theirs meanwhile
        for name in killed:
            await connection.kill(name)
        counter_id = await self._find(connection, batch)
        count = None if counter_id is None else await connection.lock(counter_id)
        if counter_id is None or count is None:
            self._ids.pop(self.name, None)
            self.lost.difference_update(killed)  # there is no row that they could hold
            if batch.in_doubt:
                batch.refuse_as_unknown("the counter was deleted meanwhile")
            elif counter_id is None:
                batch.refuse(batch.hits, NoSuchCounter)
            return not batch.hits
        if batch.in_doubt and batch.counter_id != counter_id:
            batch.refuse_as_unknown("the counter was deleted meanwhile")
            return True
        found = await connection.look_up(counter_id, [batch.key, *batch.receipt_keys(counter_id)])
        # The row is locked and the receipts are read: nothing that was begun earlier can still happen.
        self.lost.difference_update(killed)
        if batch.in_doubt:
            metrics.RESOLVED.inc()
            plan = batch.plan(counter_id)
            if plan.is_done(found):
                metrics.HITS.inc(plan.total)
        batch.settle(counter_id, found, are_earlier=not batch.in_doubt)
        batch.in_doubt = False
        batch.refuse_what_has_no_room(count)
        return await self._count(connection, batch, counter_id)

    async def _count(self, connection: LaneConnection, batch: Batch, counter_id: int) -> bool:
        """Counts the hits that have no answer yet, and answers them.

        Returns False, and has no effect, if the counter does not exist or has no room for all of them.
        """
        if not batch.hits:
            return True
        plan = batch.plan(counter_id)
        batch.counter_id = counter_id
        count = await connection.count(counter_id, plan)
        if count is None:
            return False
        metrics.HITS.inc(plan.total)
        metrics.BATCH.observe(len(batch.hits))
        batch.settle(counter_id, plan.receipts_at(count))
        return True

    async def _find(self, connection: LaneConnection, batch: Batch) -> int | None:
        """Returns the counter's id, None if it does not exist and no hit of the batch creates it."""
        counter_id = self._ids.get(self.name)
        if counter_id is None:
            counter_id = await connection.find(self.name)
            if counter_id is None and any(hit.create for hit in batch.hits):
                await connection.create(self.name)
                counter_id = await connection.find(self.name)
            if counter_id is not None:
                self._ids[self.name] = counter_id
        return counter_id
