"""Hits arrive at a fixed rate, whether or not earlier ones are answered: how a service behaves above what it can do.

Users who wait for their answers slow down with the service and hide how long others would wait. Here each user sends
`--arrivals` hits a second, and latency is counted from the time at which a hit was due.
"""

import time

import gevent
from gevent.pool import Pool
from locust import constant, events, task
from locust.argument_parser import LocustArgumentParser

from loadtests.checks.users import Hitter

IN_FLIGHT = 200
"""Requests of one user that may wait for an answer; a hit beyond them waits for one, which its latency shows."""


class Overload(Hitter):
    """Hits arrive at a fixed rate. A 503 is expected here, and no failure."""

    wait_time = constant(0)
    concurrency = connections = IN_FLIGHT
    refusals_are_failures = False

    def on_start(self) -> None:
        self._in_flight = Pool(IN_FLIGHT)

    def on_stop(self) -> None:
        self._in_flight.kill()

    @task
    def arrive(self) -> None:
        """Sends hits until the user is stopped."""
        assert self.environment.parsed_options is not None
        interval = 1 / self.environment.parsed_options.arrivals
        due = time.perf_counter()
        while True:
            gevent.sleep(max(0.0, due - time.perf_counter()))
            self._in_flight.spawn(self.hit, due=due)
            due += interval


@events.init_command_line_parser.add_listener
def add_arguments(parser: LocustArgumentParser) -> None:
    parser.add_argument("--arrivals", type=float, default=20.0, help="hits/s of each user of Overload (20)")
