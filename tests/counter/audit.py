"""Whether a counter's books are right, by plain SQL that shares nothing with the service."""

from harness.databases import Database


def audit(database: Database, name: str = "page") -> int:
    """Returns the counter's count. Fails unless history and receipts account for each of its numbers once."""
    ((counter_id, start, count),) = database.execute("SELECT id, start, count FROM counter WHERE name = %s", name)
    ((rolled_up,),) = database.execute("SELECT COALESCE(SUM(hits), 0) FROM history WHERE counter_id = %s", counter_id)
    next_number = int(start) + int(rolled_up) + 1
    for first, last in database.execute(
        "SELECT first, last FROM receipt WHERE counter_id = %s ORDER BY first", counter_id
    ):
        assert first == next_number, f"the receipt of {first} to {last} should begin with {next_number}"
        assert last >= first
        next_number = last + 1
    assert count == next_number - 1, f"the count is {count} and the receipts end with {next_number - 1}"
    return int(count)
