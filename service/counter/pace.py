"""When a lane's next transaction begins beside those in flight, by what the last ones took.

A transaction's time has two parts. It is *away* from the row's lock: on the network, or in what runs before the UPDATE.
It is *at the lock*: it waits for it, and holds it until the COMMIT is durable. Transactions overlap where they are
away; at the lock they come one after another, and hits that wait there had better waited in the queue, for a larger
batch. So another transaction helps if most of the time is spent away, as with a database in another city, and does not
if most is spent at the lock, as with a slow disk.

The statement before the UPDATE is answered when the transaction comes to the lock, and the COMMIT when it is durable.
Both answers travel as long, so the time between them is the time at the lock.
"""

from service.counter.connections import Times

_UNSURE = 0.005
"""Seconds of which it is not known what they were, where a busy event loop has read all answers together."""

_READ_TOGETHER = 0.0003
"""Seconds between two answers that were read together: what it takes to parse them."""

_OVERDUE = 0.02, 4.0
"""Where transactions should not overlap, another begins after so many seconds, and so many times the usual: the one
in flight may be stuck. Less than the first would part the batches of a busy worker, whose event loop is late by as
much."""


class Pace:
    """A lane's. Starts without overlapping; what grows is believed soon, what shrinks half by half."""

    def __init__(self, transactions: int) -> None:
        """`transactions`: how many may be in flight."""
        self.seconds = _OVERDUE[0]
        """Seconds from the begin of one transaction to that of the next, if the first is still in flight."""
        self._transactions = transactions
        self._away = 0.0
        self._at_lock = 0.0

    def note(self, begun: float, times: Times) -> None:
        """Takes in what a transaction took that began then, by time.perf_counter()."""
        away, at_lock = times.at_lock - begun, times.committed - times.at_lock
        if at_lock < _READ_TOGETHER:
            at_lock = min(away + at_lock, _UNSURE)
            away = times.committed - begun - at_lock
        # Both err towards not overlapping: a late event loop makes both longer.
        self._away = min(away, (self._away + away) / 2)
        self._at_lock = max(at_lock, (self._at_lock + at_lock) / 2)
        whole = self._away + self._at_lock
        if self._away > self._at_lock:
            # At most half of the lock's time, since other workers need it too.
            self.seconds = max(whole / self._transactions, 2 * self._at_lock)
        else:
            least, times_usual = _OVERDUE
            self.seconds = max(least, times_usual * whole)
