"""Visitors who load the page again and again, and check what they are told: no number twice, and each one's rising.

    locust -f loadtests/visitors.py --host http://127.0.0.1:8080 --headless --users 50 --spawn-rate 50 --hits 20000

`--hits` ends the run after so many requests in all. Ends with 0 if every request was answered and every number right.
"""

import re
from typing import Any

import gevent
from locust import FastHttpUser, constant, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

PAGE = re.compile(r"<h1>Counter: (\d+)</h1>")

_given: set[int] = set()
_sent = 0


@events.init_command_line_parser.add_listener
def add_arguments(parser: LocustArgumentParser) -> None:
    parser.add_argument("--hits", type=int, default=0, help="end after so many requests in all; 0: no such end")


class Visitor(FastHttpUser):
    """Sends its next request as soon as the last is answered."""

    wait_time = constant(0)

    def on_start(self) -> None:
        self.last = 0

    @task
    def visit(self) -> None:
        global _sent  # noqa: PLW0603  # of all users of this process
        hits = self.environment.parsed_options.hits
        if hits and _sent >= hits:
            gevent.sleep(1)
            return
        _sent += 1
        with self.client.get("/", catch_response=True) as response:
            page = PAGE.fullmatch(response.text or "")
            if not response.ok or page is None:
                response.failure(f"status {response.status_code} and no number")
                return
            number = int(page[1])
            if number in _given:
                response.failure("a number that was given before")
            if number <= self.last:
                response.failure("a number that is not higher than this user's last")
            _given.add(number)
            self.last = number


@events.init.add_listener
def end_after_the_last_hit(environment: Environment, **_: Any) -> None:
    """Ends the run once all requests are answered, where `--hits` says how many they are."""

    def wait(hits: int) -> None:
        while environment.stats.total.num_requests < hits:
            gevent.sleep(0.1)
        if environment.runner:
            environment.runner.quit()

    if environment.parsed_options and environment.parsed_options.hits:
        gevent.spawn(wait, environment.parsed_options.hits)


@events.quitting.add_listener
def set_exit_code(environment: Environment, **_: Any) -> None:
    hits = environment.parsed_options.hits if environment.parsed_options else 0
    all_sent = not hits or len(_given) == hits
    environment.process_exit_code = 0 if all_sent and environment.stats.total.num_failures == 0 else 1
    print(f"{len(_given)} different numbers, {environment.stats.total.num_failures} failures")
