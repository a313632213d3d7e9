"""The laws of a rate limit, for any limit and any order of calls."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.keys.gcra import Gcra

LIMITS = st.integers(1, 1000)
WINDOWS = st.floats(0.1, 3600)
STEPS = st.lists(st.tuples(st.floats(0, 100), st.integers(1, 50)), max_size=60)


@given(LIMITS, WINDOWS, STEPS)
def test_no_window_ever_has_more_than_twice_the_limit(limit, window_s, steps):
    """A burst of all, and what came free meanwhile."""
    rate, now, taken = Gcra(limit, window_s), 0.0, []
    for pause, units in steps:
        now += pause
        units = min(units, limit)
        if not rate.wait_s(now, units):
            rate.take(now, units)
            taken.append((now, units))
    for start, _ in taken:
        inside = sum(units for at, units in taken if start <= at < start + window_s)
        assert inside <= 2 * limit


@given(LIMITS, WINDOWS, STEPS)
def test_in_the_long_run_the_rate_is_kept(limit, window_s, steps):
    rate, now, total = Gcra(limit, window_s), 0.0, 0
    for pause, units in steps:
        now += pause
        if not rate.wait_s(now, units := min(units, limit)):
            rate.take(now, units)
            total += units
    assert total <= limit * (1 + now / window_s) + 1e-6


@given(LIMITS, WINDOWS, STEPS, st.integers(1, 50))
def test_who_waits_as_long_as_he_is_told_is_served_and_not_sooner(limit, window_s, steps, units):
    rate, now = Gcra(limit, window_s), 0.0
    for pause, each in steps:
        now += pause
        rate.take(now, each)
    units = min(units, limit)
    wait_s = rate.wait_s(now, units)
    assert rate.wait_s(now + wait_s * (1 + 1e-9) + 1e-9, units) == 0
    if wait_s > 1e-3:
        assert rate.wait_s(now + wait_s * 0.99, units) > 0


@given(LIMITS, WINDOWS, STEPS)
def test_what_is_said_to_be_free_is_free(limit, window_s, steps):
    rate, now = Gcra(limit, window_s), 0.0
    for pause, units in steps:
        now += pause
        rate.take(now, units)
        free = rate.free(now)
        assert 0 <= free <= limit
        if free:
            assert rate.wait_s(now, free) < window_s / limit * 1e-3
        assert rate.wait_s(now, free + 1) > 0 or free == limit
        assert rate.reset_s(now) >= 0


def test_all_at_once_and_then_one_by_one():
    rate = Gcra(60, 60.0)
    for _ in range(60):
        assert rate.wait_s(100.0) == 0
        rate.take(100.0)
    assert rate.free(100.0) == 0 and rate.wait_s(100.0) == pytest.approx(1.0)
    assert rate.free(101.0) == 1 and rate.reset_s(101.0) == pytest.approx(59.0)


def test_what_was_taken_beyond_the_limit_is_worked_off():
    rate = Gcra(100, 60.0)
    rate.take(0.0, 250)
    assert rate.wait_s(0.0) == pytest.approx(90.6)
    assert rate.wait_s(90.7) == 0


@given(LIMITS, LIMITS, WINDOWS, STEPS)
def test_another_limit_makes_nobody_wait_longer_and_frees_no_more_than_it_adds(
    limit, other, window_s, steps
):
    rate, now = Gcra(limit, window_s), 0.0
    for pause, units in steps:
        now += pause
        rate.take(now, units)
    changed = rate.at(other, now)
    assert changed.limit == other
    assert changed.reset_s(now) <= rate.reset_s(now) + 1e-9
    assert changed.free(now) <= rate.free(now) + max(0, other - limit) + 1


@pytest.mark.parametrize(("other", "free"), [(120, 90), (60, 30), (30, 15)])
def test_what_was_used_stays_used_under_another_limit(other, free):
    rate = Gcra(60, 60.0)
    rate.take(100.0, 30)
    assert rate.at(other, 100.0).free(100.0) == free
