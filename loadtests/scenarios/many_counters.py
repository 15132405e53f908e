"""Hits spread evenly over many counters: what lanes cost that have little to combine."""

import random

from locust import constant, task

from loadtests.checks.users import Hitter


class ManyCounters(Hitter):
    """Users who each hit any of a hundred counters."""

    wait_time = constant(0)
    counters = tuple(f"load-many-{number}" for number in range(100))

    @task
    def hit_one(self) -> None:
        self.hit(random.choice(self.counters))  # noqa: S311  # nothing secret
