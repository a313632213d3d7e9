"""When the server's process is short of time, and whose requests are refused unread then."""

from app.api.shedding import (
    BUSY_CORES,
    LOOK_S,
    PERSISTS_S,
    RELIEF_S,
    TARGET_S,
    TICK_S,
    Pressure,
    Shares,
)
from app.core.types import Priority

ANN, BOB = (b"ann", Priority.NORMAL), (b"bob", Priority.NORMAL)


def ticked(pressure: Pressure, start: float, seconds: float, late_s: float) -> float:
    """Ticks that all come so late; returns when the last one came."""
    now = start
    while now < start + seconds:
        now += TICK_S + late_s
        pressure.tick(now, 0.0)
    return now


def test_a_loop_in_time_is_no_overload():
    pressure = Pressure(0.0, 0.0)
    ticked(pressure, 0.0, 5.0, late_s=TARGET_S / 2)
    assert not pressure.is_late


def test_one_long_callback_is_no_overload():
    pressure = Pressure(0.0, 0.0)
    now = ticked(pressure, 0.0, 1.0, late_s=0.0)
    now += 10 * PERSISTS_S
    pressure.tick(now, 0.0)
    pressure.tick(now + TICK_S, 0.0)
    assert not pressure.is_late


def test_lateness_that_persists_is_overload_until_it_has_been_away_for_a_while():
    pressure = Pressure(0.0, 0.0)
    now = ticked(pressure, 0.0, 2 * PERSISTS_S, late_s=2 * TARGET_S)
    assert pressure.is_late
    now = ticked(pressure, now, RELIEF_S / 2, late_s=0.0)
    assert pressure.is_late
    ticked(pressure, now, RELIEF_S, late_s=0.0)
    assert not pressure.is_late


def test_what_is_reached_in_a_long_turn_of_the_loop_is_late_by_that():
    pressure = Pressure(0.0, 0.0)
    assert pressure.lateness(TICK_S + 0.3) == 0.3


def test_a_process_that_uses_half_a_core_is_busy():
    pressure = Pressure(0.0, 0.0)
    pressure.tick(LOOK_S, 1.1 * BUSY_CORES * LOOK_S)
    assert pressure.is_busy
    pressure.tick(2 * LOOK_S, 1.1 * BUSY_CORES * LOOK_S)
    assert not pressure.is_busy


def test_who_is_answered_is_not_refused():
    shares = Shares()
    for _ in range(1000):
        assert shares.ask(ANN) == 0.0
        shares.take(ANN)


def test_who_is_refused_anyway_is_asked_to_stay_away_in_proportion():
    shares = Shares()
    for number in range(1000):
        shares.ask(ANN)
        if number % 10 == 0:
            shares.take(ANN)

    assert 0.84 < shares.ask(ANN) < 0.86  # one and a half times what is taken may try
    assert shares.ask(BOB) == 0.0
    assert shares.ask((b"ann", Priority.INTERACTIVE)) == 0.0


def test_the_past_fades_and_callers_who_are_gone_are_forgotten():
    shares = Shares()
    for _ in range(8):
        shares.ask(ANN)
    assert shares.ask(ANN) > 0.8
    for _ in range(5):
        shares.fade()
    assert not shares.known
    assert shares.ask(ANN) == 0.0
