"""How many transactions of a lane overlap, by what transactions take. Times are made up, in seconds: nothing runs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.counter.connections import Times
from service.counter.pace import Pace

LIMIT = 4


def note(pace: Pace, away: float, at_lock: float) -> None:
    pace.note(0.0, Times(away, away + at_lock))


def in_flight_at_most(pace: Pace, whole: float) -> int:
    """Returns how many are in flight where hits always wait and each transaction takes `whole` seconds."""
    now, begun = 0.0, 0.0
    for in_flight in range(1, LIMIT):
        now = begun + pace.seconds(in_flight)
        if now >= whole:
            return in_flight
        begun = now
    return LIMIT


def steady(away: float, at_lock: float) -> int:
    pace = Pace(LIMIT)
    for _ in range(20):
        note(pace, away, at_lock)
    return in_flight_at_most(pace, away + at_lock)


@pytest.mark.parametrize(
    ("away", "at_lock", "in_flight"),
    [
        pytest.param(0.0002, 0.001, 1, id="on the same machine"),
        pytest.param(0.0025, 0.001, 1, id="2 ms away"),
        pytest.param(0.0025, 0.0004, 3, id="2 ms away, a fast disk"),
        pytest.param(0.020, 0.001, 4, id="20 ms away"),
        pytest.param(0.100, 0.001, 4, id="100 ms away"),
        pytest.param(0.0002, 0.100, 1, id="a slow disk"),
        pytest.param(0.020, 0.050, 1, id="20 ms away, a slow disk"),
        pytest.param(0.020, 0.012, 1, id="20 ms away, and others who wait for the same row"),
        pytest.param(0.150, 0.001, 4, id="a slow SELECT before the lock"),
    ],
)
def test_transactions_overlap_where_most_of_their_time_is_spent_away_from_the_lock(
    away: float, at_lock: float, in_flight: int
) -> None:
    assert steady(away, at_lock) == in_flight


@pytest.mark.parametrize("fast", [(0.0002, 0.0008), (0.0004, 0.002)])
@pytest.mark.parametrize("slow", [(0.2, 0.0008), (0.1, 0.002)])
def test_it_adapts_within_a_second_when_the_databases_speed_changes(
    fast: tuple[float, float], slow: tuple[float, float]
) -> None:
    pace = Pace(LIMIT)
    for speed, overlaps in (fast, False), (slow, True), (fast, False):
        seconds = 0.0
        while pace.overlaps != overlaps:
            note(pace, *speed)
            seconds += sum(speed)
        assert seconds < 1
        for _ in range(100):
            note(pace, *speed)
        assert pace.overlaps == overlaps


def test_hits_join_a_transaction_that_is_due_and_wait_little_where_others_are_in_flight() -> None:
    pace = Pace(LIMIT)
    assert pace.seconds_to_join(1) == pace.seconds(1), "where none overlap, the one in flight may just be late"
    for _ in range(20):
        note(pace, 0.1, 0.001)
    for in_flight in range(1, LIMIT):
        assert 0 < pace.seconds_to_join(in_flight) < pace.seconds(in_flight) / 5
    assert pace.seconds_to_join(LIMIT) == pace.seconds(LIMIT)


def test_one_that_is_stuck_does_not_hold_up_the_next_for_long() -> None:
    pace = Pace(LIMIT)
    assert 0 < pace.seconds(1) < 0.1, "before anything was measured"
    for _ in range(20):
        note(pace, 0.0002, 0.001)
    assert 0.005 < pace.seconds(1) < 0.1


def test_one_slow_commit_is_forgotten_soon() -> None:
    pace = Pace(LIMIT)
    for _ in range(20):
        note(pace, 0.1, 0.001)
    note(pace, 0.1, 0.2)
    assert not pace.overlaps
    for _ in range(5):
        note(pace, 0.1, 0.001)
    assert pace.overlaps


def test_answers_that_a_busy_event_loop_has_read_together_do_not_look_like_a_far_database() -> None:
    pace = Pace(LIMIT)
    for _ in range(20):
        note(pace, 0.008, 0.0001)
    assert not pace.overlaps


@given(
    st.lists(st.tuples(st.floats(1e-6, 10), st.floats(0, 10)), min_size=1, max_size=30),
    st.integers(1, 20),
)
def test_whatever_was_measured_the_next_is_due_at_some_time(noted: list[tuple[float, float]], limit: int) -> None:
    pace = Pace(limit)
    for away, at_lock in noted:
        note(pace, away, at_lock)
    waits = [pace.seconds(in_flight) for in_flight in range(1, limit + 1)]
    assert all(0 < seconds <= 80 for seconds in waits)
    assert pace.seconds(limit) >= 0.02, "beside as many as may be in flight, only where one is stuck"
