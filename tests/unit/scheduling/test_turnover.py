"""How long those who wait for a place among the running sequences have to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.scheduling.turnover import REMEMBERED_MS, Turnover


def test_nobody_waits_for_nothing():
    assert Turnover().ms_until_joined(0) == 0.0


def test_nothing_is_known_before_somebody_has_left():
    turnover = Turnover()
    turnover.note(0, 50.0)

    assert turnover.ms_until_joined(100) is None


def test_a_queue_is_worked_off_at_the_rate_at_which_tokens_are_freed():
    turnover = Turnover()
    for _ in range(10):
        turnover.note(0, 90.0)
        turnover.note(200, 10.0)  # 2 tokens a millisecond

    assert turnover.ms_until_joined(1000) == pytest.approx(500.0, rel=0.01)


def test_a_pace_of_long_ago_is_forgotten():
    turnover = Turnover()
    turnover.note(10_000, 100.0)
    for _ in range(600):
        turnover.note(100, REMEMBERED_MS / 100)

    assert turnover.ms_until_joined(100) == pytest.approx(REMEMBERED_MS / 100, rel=0.05)


@given(st.lists(st.tuples(st.integers(0, 10_000), st.floats(0.01, 1e6)), max_size=30))
def test_who_waits_for_more_waits_longer(steps):
    turnover = Turnover()
    for freed, ms in steps:
        turnover.note(freed, ms)

    few, many = turnover.ms_until_joined(10), turnover.ms_until_joined(1000)
    assert (few is None) == (many is None)
    assert few is None or (many is not None and 0 <= few <= many)
