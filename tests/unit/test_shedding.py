"""When the server's process is short of time, and whose requests are refused unread then."""

import random

import pytest

from app.api.shedding import (
    ASKS_MANY,
    BUSY_CORES,
    LOOK_S,
    PERSISTS_S,
    RELIEF_S,
    TARGET_S,
    TICK_S,
    Pressure,
    Shares,
    Shedding,
    Who,
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


@pytest.mark.parametrize("cores", [0.15, 0.3, BUSY_CORES])
def test_a_process_that_uses_its_share_of_the_cores_is_busy(cores):
    pressure = Pressure(0.0, 0.0, cores)
    pressure.tick(LOOK_S, 0.9 * cores * LOOK_S)
    assert not pressure.is_busy
    pressure.tick(2 * LOOK_S, 2.0 * cores * LOOK_S)
    assert pressure.is_busy
    pressure.tick(3 * LOOK_S, 2.0 * cores * LOOK_S)
    assert not pressure.is_busy


def test_who_is_answered_is_not_refused():
    shares = Shares()
    for _ in range(1000):
        assert shares.ask(ANN) == 0.0
        shares.read(ANN)


@pytest.mark.parametrize("asked", [(1,), (2, 1), (3, 0, 1), (1, 1, 2, 5)])
def test_who_asks_now_and_then_and_is_always_taken_is_not_refused(asked):
    shares = Shares()
    for _ in range(50):
        for requests in asked:
            for _ in range(requests):
                assert shares.ask(ANN) == 0.0
                shares.read(ANN)
            shares.fade()


class Application:
    """Takes at most so many of a caller's requests in each half second, and refuses the others."""

    def __init__(self, shares: Shares, who: Who, takes: int) -> None:
        self._shares, self._who = shares, who
        self._draw = random.Random(1).random
        self.takes = takes
        self.read = self.taken = 0

    def half_second(self, asked: int) -> None:
        self.read = self.taken = 0
        for _ in range(asked):
            if self._draw() < self._shares.ask(self._who):
                continue
            self._shares.read(self._who)
            self.read += 1
            if self.taken < self.takes:
                self.taken += 1
            else:
                self._shares.refuse(self._who)
        self._shares.fade()


def test_who_is_refused_anyway_is_asked_to_stay_away_in_proportion():
    shares = Shares()
    application = Application(shares, ANN, takes=100)
    for _ in range(20):
        application.half_second(asked=1000)

    assert application.taken == 100
    assert 110 < application.read < 140
    assert shares.ask(BOB) == 0.0
    assert shares.ask((b"ann", Priority.INTERACTIVE)) == 0.0


def test_room_is_found_again_soon_by_those_who_insist():
    shares = Shares()
    application = Application(shares, ANN, takes=20)
    for _ in range(20):
        application.half_second(asked=1000)
    application.takes = 1000
    for _ in range(8):  # four seconds
        application.half_second(asked=1000)

    assert application.taken > 700


def test_who_is_never_taken_still_tries():
    shares = Shares()
    application = Application(shares, ANN, takes=0)
    tried = 0
    for _ in range(20):
        application.half_second(asked=100)
        tried += application.read

    assert 10 <= tried < 200


def test_the_past_fades_and_callers_who_are_gone_are_forgotten():
    shares = Shares()
    for _ in range(8):
        shares.ask(ANN)
        shares.read(ANN)
        shares.refuse(ANN)
    assert shares.ask(ANN) > 0.8
    for _ in range(5):
        shares.fade()
    assert not shares.known
    assert shares.ask(ANN) == 0.0


def test_few_requests_are_read_by_a_late_loop_too():
    """They are not why it is late: other programs may keep the cores busy."""
    shedding = Shedding()
    shedding._pressure.is_late, shedding._pressure._late = True, 1.0
    shed = [shedding.sheds(ANN) for _ in range(2 * ASKS_MANY)]
    assert shed == [False] * ASKS_MANY + [True] * ASKS_MANY
