"""Visitors of a service whose database takes 100 ms for each transaction: hits that wait share the next one.

`./run load --compare` starts services with such a database and this scenario against them. Where one transaction serves
one request, so many are answered as there are connections; where it serves all that wait, many more.
"""

from locust import constant, task

from loadtests.checks.users import Hitter


class SlowDatabase(Hitter):
    """Visitors whose every hit waits for a slow transaction."""

    wait_time = constant(0)

    @task
    def visit(self) -> None:
        self.hit()
