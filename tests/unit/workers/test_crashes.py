"""When to start a worker again, and when to give it up."""

from app.workers.crashes import Crashes
from app.workers.ledger import Verdict

CRASH = Verdict()
TRIAL = Verdict(by_trial=True)
CONVICTION = Verdict(by_trial=True, explained=1)


def test_pause_doubles_with_every_crash_in_a_row_up_to_half_a_minute():
    crashes = Crashes(most=100)
    pauses = []
    for _ in range(10):
        crashes.note(CRASH, has_answered=False)
        pauses.append(crashes.pause_s)
    assert pauses == [0.25, 0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_one_crash_more_than_allowed_is_too_many():
    crashes = Crashes(most=2)
    for expected in (False, False, True):
        crashes.note(CRASH, has_answered=False)
        assert crashes.are_too_many is expected


def test_answer_starts_the_count_again():
    crashes = Crashes(most=1)
    for _ in range(5):
        crashes.note(CRASH, has_answered=True)
        assert not crashes.are_too_many
        assert crashes.pause_s == 0.25


def test_poison_does_not_take_down_a_worker_that_has_answered_others():
    crashes = Crashes(most=1)
    crashes.note(CRASH, has_answered=True)
    for _ in range(20):
        crashes.note(CONVICTION, has_answered=False)
        crashes.note(CRASH, has_answered=False)
        assert not crashes.are_too_many


def test_worker_that_never_answered_anything_cannot_blame_its_inputs():
    crashes = Crashes(most=3)
    for _ in range(4):
        crashes.note(CONVICTION, has_answered=False)
    assert crashes.are_too_many


def test_days_do_not_overflow_the_pause():
    crashes = Crashes(most=10_000)
    for _ in range(5_000):
        crashes.note(CRASH, has_answered=False)
    assert crashes.pause_s == 30


def test_deaths_that_a_trial_explains_neither_count_nor_lengthen_the_pause():
    crashes = Crashes(most=2)
    crashes.note(CRASH, has_answered=True)
    for _ in range(10):
        crashes.note(TRIAL, has_answered=False)
    assert (crashes.in_a_row, crashes.pause_s) == (1, 0.25)


def test_conviction_explains_every_crash_that_the_item_was_blamed_for():
    crashes = Crashes(most=5)
    crashes.note(CRASH, has_answered=True)
    crashes.note(CRASH, has_answered=False)
    crashes.note(CRASH, has_answered=False)
    crashes.note(Verdict(by_trial=True, explained=3), has_answered=False)
    assert crashes.in_a_row == 0
