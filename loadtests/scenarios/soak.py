"""A steady, moderate load for hours: whether anything grows, leaks or slows down. Give it a long `--run-time`."""

from locust import constant_throughput, task

from loadtests.checks.users import Hitter


class Soak(Hitter):
    """Users who hit once a second."""

    wait_time = constant_throughput(1)

    @task
    def visit(self) -> None:
        self.hit()
