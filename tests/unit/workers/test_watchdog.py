"""When a worker counts as stuck, with time as an argument."""

import pytest

from app.workers.watchdog import (
    BUSY_CORES,
    BUSY_MULTIPLE,
    CHECK_S,
    RUN_MULTIPLE,
    Watchdog,
    WatchLimits,
)

LIMITS = WatchLimits(stuck_after_s=20.0, memory_bytes=100 * 2**20)


def watched_until(
    watchdog: Watchdog, start: float, end: float, *, beats: bool, cores: float | None = 0.0
) -> str | None:
    """Ask as often as one should; the first complaint. cores: that the process uses meanwhile."""
    for step in range(int((end - start) / CHECK_S) + 1):
        now = start + step * CHECK_S
        if beats:
            watchdog.on_beat(0, now)
        cpu_s = None if cores is None else cores * now
        if (reason := watchdog.stuck(now, cpu_s)) is not None:
            return reason
    return None


def test_worker_that_beats_is_well_however_long():
    assert watched_until(Watchdog(LIMITS, 0.0), 0.0, 500.0, beats=True) is None


def test_worker_without_a_beat_is_stuck_after_the_limit_and_not_before():
    watchdog = Watchdog(LIMITS, 0.0)
    watchdog.on_beat(0, 5.0)
    assert watched_until(watchdog, 5.0, 25.0, beats=False) is None
    assert watchdog.stuck(25.1, 0.0) == "gave no sign of life for 20.1 s (WORKER_STUCK_AFTER_S)"


def test_silent_worker_that_computes_is_left_alone_up_to_a_multiple():
    """A step of generation holds the loop, and a long prompt takes minutes."""
    watchdog = Watchdog(LIMITS, 0.0)
    assert watched_until(watchdog, 0.0, 200.0, beats=False, cores=1.9) is None
    assert BUSY_MULTIPLE * LIMITS.stuck_after_s == 200.0
    assert watchdog.stuck(200.5, 400.0) == (
        "computed for 200.5 s without a sign of life (10 times WORKER_STUCK_AFTER_S)"
    )


@pytest.mark.parametrize(
    ("cores", "is_stuck"),
    [(None, True), (0.0, True), (0.9 * BUSY_CORES, True), (1.1 * BUSY_CORES, False)],
    ids=["unknown", "none", "hardly any", "a little"],
)
def test_silent_worker_is_busy_from_a_tenth_of_a_core(cores, is_stuck):
    reason = watched_until(Watchdog(LIMITS, 0.0), 0.0, 30.0, beats=False, cores=cores)
    assert (reason is not None) == is_stuck


def test_worker_that_computed_and_then_hangs_is_stuck_once_it_was_idle_for_the_limit():
    watchdog = Watchdog(LIMITS, 0.0)
    assert watched_until(watchdog, 0.0, 60.0, beats=False, cores=1.0) is None
    for step in range(1, 41):
        assert watchdog.stuck(60.0 + step * CHECK_S, 60.0) is None
    assert watchdog.stuck(80.5, 60.0) == "gave no sign of life for 80.5 s (WORKER_STUCK_AFTER_S)"


def test_run_beyond_its_limit_is_stuck_although_the_loop_beats():
    watchdog = Watchdog(LIMITS, 0.0)
    watchdog.on_started(1, [7, 8], 5.0, 0.0)
    reason = watched_until(watchdog, 0.0, 30.0, beats=True)
    assert reason == (
        "has run one batch of 2 inputs for 20.5 s, its limit is 20.0 s (WORKER_STUCK_AFTER_S)"
    )


def test_long_run_has_a_multiple_of_its_predicted_time():
    watchdog = Watchdog(LIMITS, 0.0)
    watchdog.on_started(1, [7], 10_000.0, 0.0)
    assert watched_until(watchdog, 0.0, RUN_MULTIPLE * 10, beats=True) is None
    assert watched_until(watchdog, RUN_MULTIPLE * 10, RUN_MULTIPLE * 10 + 1, beats=True)


def test_run_of_unknown_length_is_not_watched_by_time():
    watchdog = Watchdog(LIMITS, 0.0)
    watchdog.on_started(1, [7], 0.0, 0.0)
    assert watched_until(watchdog, 0.0, 500.0, beats=True) is None
    assert watchdog.inside == {7}


def test_what_has_ended_is_not_inside_any_more():
    watchdog = Watchdog(LIMITS, 0.0)
    watchdog.on_started(1, [7, 8], 5.0, 0.0)
    watchdog.on_started(2, [8, 9], 5.0, 0.0)
    watchdog.on_ended(1)
    assert watchdog.inside == {8, 9}
    watchdog.on_ended(2)
    assert watched_until(watchdog, 0.0, 100.0, beats=True) is None
    assert watchdog.inside == frozenset()


def test_time_in_which_the_server_itself_stood_still_does_not_count():
    """It has not read what its workers said meanwhile."""
    watchdog = Watchdog(LIMITS, 0.0)
    watchdog.on_started(1, [7], 5.0, 0.0)
    assert watchdog.stuck(300.0, 0.0) is None
    assert watched_until(watchdog, 300.0, 315.0, beats=False) is None
    assert watched_until(watchdog, 315.0, 325.0, beats=False) is not None


@pytest.mark.parametrize(
    ("resident_mb", "limit_mb", "is_too_large"),
    [(100, 100, False), (101, 100, True), (10**6, 0, False)],
    ids=["at the limit", "above it", "no limit"],
)
def test_memory_beyond_the_limit_is_noticed_at_a_beat(resident_mb, limit_mb, is_too_large):
    watchdog = Watchdog(WatchLimits(20.0, limit_mb * 2**20), 0.0)
    assert watchdog.too_large() is None
    watchdog.on_beat(resident_mb * 2**20, 1.0)
    expected = "held 101 MB of memory, its limit is 100 MB (WORKER_MEMORY_LIMIT_MB)"
    assert watchdog.too_large() == (expected if is_too_large else None)
