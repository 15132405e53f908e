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

_OVERDUE = 4
"""Where transactions should not overlap, another begins after so many times the usual: the one in flight may be
stuck."""

_SOONEST_OVERDUE = 0.02
"""Seconds that pass before that at the least. The event loop of a busy worker is late by as much, and less would part
its batches."""

_JOINING = 0.1
"""Part of a pace that a hit waits for others when a transaction is due already: clients that were answered together
come again together. Against a whole pace, with a database of 100 ms: 1.02 times the rate at 16 clients, 1.01 at 64."""


class Pace:
    """Of a worker's lanes, which share a database. Starts without overlapping.

    What speaks for overlapping is believed slowly, what speaks against it at once.
    """

    def __init__(self, transactions: int) -> None:
        self.transactions = transactions
        """How many may be in flight."""
        self._useful = 1.0
        """How many in flight are of use; a fraction counts in `seconds` only."""
        self._away = 0.0
        self._at_lock = 0.0

    @property
    def overlaps(self) -> bool:
        """Whether transactions are to overlap."""
        return self._useful >= 2

    def note(self, begun: float, times: Times) -> None:
        """Learns from a committed transaction, whose first statement was sent at `begun` (time.perf_counter())."""
        away, at_lock = times.at_lock - begun, times.committed - times.at_lock
        if at_lock < _READ_TOGETHER:
            at_lock = min(away + at_lock, _UNSURE)
            away = times.committed - begun - at_lock
        # A late event loop makes both longer.
        self._away = min(away, (self._away + away) / 2)
        self._at_lock = max(at_lock, (self._at_lock + at_lock) / 2)
        # A lane takes half of the lock's time at the most, since other workers need it too.
        self._useful = min(self.transactions, self._whole / (2 * self._at_lock))

    def seconds(self, in_flight: int) -> float:
        """Returns the seconds from the begin of the last transaction to that of the next beside so many in flight.

        The more are in flight, the longer: the first hits begin nearly at once, and under load the transactions are
        spread over the time that one takes.
        """
        if self._is_useful_beside(in_flight):
            return self._whole * in_flight**2 / self._useful**3
        return max(_SOONEST_OVERDUE, _OVERDUE * self._whole)

    def seconds_to_join(self, in_flight: int) -> float:
        """Returns the seconds that a hit waits for others where the next transaction is due when it comes."""
        return self.seconds(in_flight) * (_JOINING if self._is_useful_beside(in_flight) else 1)

    def _is_useful_beside(self, in_flight: int) -> bool:
        return in_flight + 1 <= self._useful

    @property
    def _whole(self) -> float:
        return self._away + self._at_lock
