"""The check of the counters: each number was given once, and they went up by as much as was acknowledged."""

import re
from collections.abc import Iterable
from typing import Any

from locust import events
from locust.env import Environment

from loadtests.checks.ledger import Books
from loadtests.verdict import CHECKS, TargetError, ask

PAGE = "the page's counter"
"""The counter of `GET /`, which other applications have that have no API. It is read by counting."""

NUMBER = re.compile(r"<h1>Counter: (\d+)</h1>")

BOOKS = Books()
"""This process's."""


class _Counting:
    """Compares the books with the counters' values before and after."""

    def __init__(self) -> None:
        self._before: dict[str, int] = {}

    def begin(self, environment: Environment) -> None:
        self._before = {counter: value(environment, counter) for counter in _counters(environment)}

    def findings(self, environment: Environment) -> Iterable[str]:
        try:
            for counter, before in self._before.items():
                after = value(environment, counter)
                # What is read by counting is itself the first number after the run.
                BOOKS.check(counter, before, after - 1 if counter == PAGE else after)
        except TargetError as error:
            yield f"the counters could not be read after the run: {error}"
        yield from (f"{what} ({often} times)" for what, often in BOOKS.wrong.items())

    def summary(self) -> str:
        return BOOKS.summary()


CHECKS.append(_Counting())


def value(environment: Environment, counter: str) -> int:
    """Returns the counter's value, and makes it if it is not there. Raises TargetError."""
    if counter != PAGE:
        answer = ask(environment, "PUT", f"/counters/{counter}")
        try:
            return int(answer.json()["value"])
        except (ValueError, KeyError, TypeError):
            raise TargetError(f"{environment.host} does not answer as the counters' API does") from None
    page = NUMBER.fullmatch(ask(environment, "GET", "/").text)
    if page is None:
        raise TargetError(f"{environment.host} does not answer with a counter's page: is another program there?")
    return int(page[1])


def _counters(environment: Environment) -> list[str]:
    return sorted({name for one in environment.user_classes for name in getattr(one, "counters", ())})


@events.test_start.add_listener
def forget(**_: Any) -> None:
    """Begins new books: Locust's page may start one run after another."""
    BOOKS.clear()


@events.report_to_master.add_listener
def report(data: dict[str, Any], **_: Any) -> None:
    data["books"] = BOOKS.report()


@events.worker_report.add_listener
def add(data: dict[str, Any], **_: Any) -> None:
    BOOKS.add(data["books"])
