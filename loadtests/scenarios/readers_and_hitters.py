"""Many read and watch a counter while some hit it: whether reading costs hits, and what is read is never old."""

from locust import constant, task

from loadtests.checks.ledger import STALE_READ
from loadtests.checks.numbers import LEDGER
from loadtests.checks.users import Hitter

COUNTER = "load-readers-and-hitters"


class ReadersAndHitters(Hitter):
    """One hits, four read the value, one watches the history; each does what comes by chance."""

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
