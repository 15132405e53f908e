"""Visitors load the page again and again, each as soon as the last is answered: how many hits the counter takes.

./run load visitors --headless --users 50 --spawn-rate 50 --hits 20000
"""

from typing import Any

import gevent
from locust import constant, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import WorkerRunner

from loadtests.checks.users import Hitter

_sent = 0


class Visitors(Hitter):
    """People who load the page again and again."""

    wait_time = constant(0)

    @task
    def visit(self) -> None:
        global _sent  # noqa: PLW0603  # of all users of this process
        options = self.environment.parsed_options
        assert options is not None
        if options.hits and _sent >= options.hits:
            gevent.sleep(1)
            return
        _sent += 1
        self.hit()


@events.init_command_line_parser.add_listener
def add_arguments(parser: LocustArgumentParser) -> None:
    parser.add_argument("--hits", type=int, default=0, help="end after so many hits of each process; 0: no such end")


@events.test_start.add_listener
def end_after_the_last_hit(environment: Environment, **_: Any) -> None:
    """Ends the run once all requests are answered, where `--hits` says how many they are."""
    global _sent  # noqa: PLW0603
    _sent = 0
    hits = environment.parsed_options.hits if environment.parsed_options else 0
    runner = environment.runner
    if isinstance(runner, WorkerRunner):
        return  # the master ends it

    def wait() -> None:
        while environment.stats.total.num_requests < hits * max(1, getattr(runner, "worker_count", 1)):
            gevent.sleep(0.1)
        if runner is not None and environment.web_ui is None:
            runner.quit()
        elif runner is not None:
            runner.stop()

    if hits:
        gevent.spawn(wait)
