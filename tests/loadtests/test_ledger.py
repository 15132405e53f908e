"""The ledger of a run: what it finds in one process, and when the ledgers of several are merged."""

import pytest

from loadtests.checks.ledger import DUPLICATE, NOT_RISING, Ledger


def ledger(*numbers: int) -> Ledger:
    made = Ledger()
    for number in numbers:
        made.record_sent("page")
        made.record_number("page", number, floor=-1)
    return made


def test_a_number_that_two_processes_were_given_is_found_when_their_ledgers_are_merged() -> None:
    master = Ledger()
    for worker in ledger(1, 3, 5), ledger(2, 3, 5), ledger(4):
        master.merge(worker.report())
    assert master.violations == {DUPLICATE: 2}
    assert master.summary() == "5 different numbers, 0 hits unknown"


def test_a_report_has_what_is_new_since_the_last_one() -> None:
    worker, master = ledger(1, 2), Ledger()
    master.merge(worker.report())
    worker.record_sent("page")
    worker.record_number("page", 3, floor=3)
    worker.record_sent("page")
    master.merge(worker.report())
    assert master.summary() == "3 different numbers, 1 hits unknown"
    assert master.violations == {NOT_RISING: 1}


@pytest.mark.parametrize(
    ("after", "finding"),
    [
        (12, "numbers from 11 to 13 were given between 10 and 12"),
        (13, None),
        (14, None),  # the unknown hit was counted
        (15, "it went up by 5, with 3 hits acknowledged and 1 unknown"),
    ],
)
def test_a_counter_rises_by_what_was_acknowledged_and_at_most_by_what_is_unknown_too(
    after: int, finding: str | None
) -> None:
    made = ledger(11, 12, 13)
    made.record_sent("page")
    made.check("page", 10, after)
    assert bool(made.violations) == (finding is not None)
    assert finding is None or f"page: {finding}" in made.violations
