"""The counter's metrics. None has a counter's name as a label: whoever has a token can make a million of them. What a
single counter gets is in its history (`/counters/<name>/history`).
"""

from service.platform.metrics import SECONDS, counter, gauge, histogram

HITS = counter("counter_hits_total", "Numbers that were given.")
REPLAYS = counter("counter_replays_total", "Hits that got an earlier one's numbers by its Idempotency-Key.")
REFUSED = counter(
    "counter_refused_hits_total", "Hits that were not counted, since the queue was full or late.", ["reason"]
)
QUEUE_FULL = REFUSED.labels("queue_full")
QUEUE_LATE = REFUSED.labels("queue_late")

WAITING = gauge("counter_queue_hits", "Hits that wait for their transaction.")
WAIT = histogram("counter_queue_wait_seconds", "Time that a hit waited for its transaction.")

IN_FLIGHT = gauge("counter_transactions_in_flight", "Transactions that have begun and not ended.")
BATCH = histogram(
    "counter_transaction_hits",
    "Hits that shared a transaction.",
    buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000),
)
TRANSACTION = histogram("counter_transaction_seconds", "Time from a transaction's first statement to its commit.")
AT_LOCK = histogram(
    "counter_transaction_lock_seconds",
    "Time of it in which it waited for the counter's row, or held it.",
    buckets=(0.0001, 0.00025, 0.0005, *SECONDS),
)
RETRIES = counter("counter_transaction_retries_total", "Attempts at a transaction after the first.")
RESOLVED = counter("counter_unknown_commits_resolved_total", "Commits of an unknown outcome that was found out.")

CONNECTIONS = gauge("counter_connections_size", "Connections that the lanes may have.")
IN_USE = gauge("counter_connections_in_use", "Connections that lanes have.")
CONNECTIONS_WAITING = gauge("counter_connections_waiting", "Lanes that wait for a connection.")
