"""All users hit in the same moment, every few seconds: whether a crowd that comes at once is answered."""

import time

from locust import User, events, task
from locust.argument_parser import LocustArgumentParser

from loadtests.checks.users import Hitter


def until_the_next_burst(user: User) -> float:
    """Returns the seconds until the clock next shows a multiple of `--every`, the same for users of all processes."""
    assert user.environment.parsed_options is not None
    every: float = user.environment.parsed_options.every
    return every - time.time() % every


class Burst(Hitter):
    """A crowd that comes at once."""

    wait_time = until_the_next_burst

    @task
    def visit(self) -> None:
        self.hit()


@events.init_command_line_parser.add_listener
def add_arguments(parser: LocustArgumentParser) -> None:
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two bursts of Burst (5)")
