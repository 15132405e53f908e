"""A condition that lasts is logged when it begins and when it ends, with how often it was in between."""

import gc
import io
import logging
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

from harness.processes import wait_until
from service.platform.log_folding import CONDITIONS, DIFFERENT, FoldingHandler

pytestmark = pytest.mark.any_database

SOON = 0.2
"""Seconds after which a condition is over here, by a clock that a test sets; the handler looks in a quarter of them."""

NEVER = 3600.0


@dataclass
class Log:
    """A logger whose handler folds, and what that wrote."""

    handler: FoldingHandler
    logger: logging.Logger
    written: io.StringIO = field(default_factory=io.StringIO)
    now: float = 0.0
    """What its clock shows."""

    def lines(self) -> list[str]:
        return self.written.getvalue().splitlines()


@pytest.fixture
def make_log() -> Iterator[Callable[..., Log]]:
    made = []

    def make_log(*, quiet: float = NEVER, lasting: float = NEVER) -> Log:
        handler = FoldingHandler(quiet=quiet, lasting=lasting, clock=lambda: log.now)
        log = Log(handler, logging.Logger("a"))  # noqa: LOG001  # of no others
        log.handler.setStream(log.written)
        log.logger.addHandler(log.handler)
        made.append(log)
        return log

    yield make_log
    for log in made:
        log.handler.close()


def test_what_lasts_has_one_line_at_its_begin_and_one_at_its_end(make_log: Callable[..., Log]) -> None:
    log = make_log(quiet=SOON)
    ends = []
    log.handler.addFilter(lambda record: ends.append(vars(record)) or True)  # type: ignore[func-returns-value]
    for _ in range(1000):
        log.logger.warning("no %s", "database")
    assert log.lines() == ["no database"]
    log.now = 3.0
    wait_until(lambda: len(log.lines()) == 2)
    assert log.lines()[1] == "over: no database"
    assert ends[-1]["times"] == 1000
    assert ends[-1]["lasted"] == 0
    log.logger.warning("no %s", "database")
    assert log.lines()[2:] == ["no database"]


def test_a_line_that_comes_once_has_no_end(make_log: Callable[..., Log]) -> None:
    log = make_log(quiet=SOON)
    log.logger.warning("once")
    for _ in range(2):
        log.logger.warning("twice")
    log.now = 3.0
    wait_until(lambda: "over: twice" in log.lines())
    assert log.lines() == ["once", "twice", "over: twice"]


def test_lines_that_differ_in_their_arguments_pass_up_to_a_number(make_log: Callable[..., Log]) -> None:
    log = make_log()
    for number in range(DIFFERENT + 5):
        log.logger.warning("item %d", number)
    assert log.lines() == [f"item {number}" for number in range(DIFFERENT)]
    log.handler.close()
    assert log.lines()[DIFFERENT:] == ["lasts: item 0"]


def test_it_is_said_while_a_condition_lasts_and_new_ones_pass_again(make_log: Callable[..., Log]) -> None:
    log = make_log(quiet=SOON, lasting=SOON / 2)
    for _ in range(2):
        log.logger.warning("a")
    log.now = SOON * 3 / 4
    wait_until(lambda: log.lines() == ["a", "lasts: a"])
    log.logger.warning("a")
    assert log.lines() == ["a", "lasts: a", "a"]


def test_of_errors_only_those_that_differ_pass_whatever_the_line_says(make_log: Callable[..., Log]) -> None:
    log = make_log()

    def fail(number: int) -> None:
        if number % 2:
            raise ValueError("odd" if number > 4 else "other")
        raise ValueError("other")

    for number in range(8):
        try:
            fail(number)
        except ValueError:
            log.logger.exception("request %d", number)
    assert [line for line in log.lines() if line.startswith("request")] == ["request 0", "request 1", "request 5"]


def test_what_differs_in_all_lines_is_folded_too(make_log: Callable[..., Log]) -> None:
    log = make_log()
    for number in range(10 * CONDITIONS):
        log.logger.warning(f"item {number}")  # noqa: G004  # as libraries do
    assert len(log.lines()) == CONDITIONS + DIFFERENT


def test_information_is_not_folded(make_log: Callable[..., Log]) -> None:
    log = make_log()
    for _ in range(3):
        log.logger.info("ready")
    assert log.lines() == ["ready"] * 3


def test_a_broken_call_does_not_reach_its_caller(
    make_log: Callable[..., Log], capsys: pytest.CaptureFixture[str]
) -> None:
    log = make_log()

    class Unsayable(Exception):
        def __str__(self) -> str:
            raise ValueError("no text")

    log.logger.warning("%d items", "many")
    log.logger.error("request %d", 1, exc_info=Unsayable())
    log.logger.warning("after it")
    assert log.lines()[-1] == "after it"
    assert "Arguments: ('many',)" in capsys.readouterr().err


def test_nothing_of_a_request_that_failed_is_kept(make_log: Callable[..., Log]) -> None:
    log = make_log()

    class Body:
        pass

    def fail() -> "weakref.ref[Body]":
        body = Body()
        try:
            int("none")
        except ValueError:
            log.logger.exception("request")
        return weakref.ref(body)

    body = fail()
    gc.collect()
    assert body() is None
    log.handler.close()
    assert "request" in log.lines()
