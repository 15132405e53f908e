"""The ledger's check: each number was given once, and the counters rose by the acknowledged hits."""

import re
from collections.abc import Iterable
from typing import Any

from locust import events
from locust.env import Environment

from loadtests.checks.ledger import Ledger
from loadtests.verdict import CHECKS, SCOPES, TargetError, ask

PAGE_COUNTER = "the page's counter"
"""The counter of `GET /`, which stacks without an API have too. It is read by counting."""

NUMBER = re.compile(r"<h1>Counter: (\d+)</h1>")

LEDGER = Ledger()
"""This process's."""

SCOPES.extend(("count", "manage"))


class LedgerCheck:
    """Compares the ledger with the counters' values before and after the run."""

    def __init__(self) -> None:
        self._before: dict[str, int] = {}

    def begin(self, environment: Environment) -> None:
        self._before = {counter: value(environment, counter) for counter in counters(environment)}

    def findings(self, environment: Environment) -> Iterable[str]:
        try:
            for counter, before in self._before.items():
                after = value(environment, counter)
                # Reading the page's counter gives the first number after the run.
                LEDGER.check(counter, before, after - 1 if counter == PAGE_COUNTER else after)
        except TargetError as error:
            yield f"the counters could not be read after the run: {error}"
        yield from (f"{violation} ({often} times)" for violation, often in LEDGER.violations.items())

    def summary(self) -> str:
        return LEDGER.summary()


CHECKS.append(LedgerCheck())


def value(environment: Environment, counter: str) -> int:
    """Returns the counter's value, and makes it if it is not there. Raises TargetError."""
    if counter != PAGE_COUNTER:
        answer = ask(environment, "PUT", f"/counters/{counter}")
        try:
            return int(answer.json()["value"])
        except (ValueError, KeyError, TypeError):
            raise TargetError(f"{environment.host} does not answer as the counters' API does") from None
    page = NUMBER.fullmatch(ask(environment, "GET", "/").text)
    if page is None:
        raise TargetError(f"{environment.host} does not answer with a counter's page: is another program there?")
    return int(page[1])


def counters(environment: Environment) -> list[str]:
    """Returns the names of the counters that the run's scenarios hit."""
    return sorted({name for one in environment.user_classes for name in getattr(one, "counters", ())})


@events.test_start.add_listener
def clear(**_: Any) -> None:
    """Begins a new ledger: Locust's page may start one run after another."""
    LEDGER.clear()


@events.report_to_master.add_listener
def report(data: dict[str, Any], **_: Any) -> None:
    data["ledger"] = LEDGER.report()


@events.worker_report.add_listener
def merge(data: dict[str, Any], **_: Any) -> None:
    LEDGER.merge(data["ledger"])
