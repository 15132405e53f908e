"""Many readers and some hitters of one counter: whether reads slow hits down, and never return an old value."""

from locust import constant, task

from loadtests.checks.ledger import STALE_READ
from loadtests.checks.numbers import LEDGER
from loadtests.checks.users import Hitter

COUNTER = "load-readers-and-hitters"


class ReadersAndHitters(Hitter):
    """Each user picks tasks at random: hits, reads of the value (four times as often) and of the history."""

    wait_time = constant(0)
    counters = (COUNTER,)

    @task(1)
    def hit_it(self) -> None:
        self.hit(COUNTER)

    @task(4)
    def read_it(self) -> None:
        floor = self.highest.get(COUNTER, -1)
        with self.api("GET", f"/counters/{COUNTER}", "read") as response:
            if response.ok:
                value = int(response.json()["value"])
                if value < floor:
                    response.failure(LEDGER.record_violation(STALE_READ))
                self.highest[COUNTER] = max(value, floor)

    @task(1)
    def watch_its_history(self) -> None:
        with self.api("GET", f"/counters/{COUNTER}/history", "watch"):
            pass
