"""The bound in front of every queue."""

import pytest

from app.core.errors import Overloaded
from app.scheduling.admission import MAX_RETRY_AFTER_S, Admission


def filled(limit: int) -> Admission:
    admission = Admission(limit, "encoder")
    for _ in range(limit):
        admission.acquire()
    return admission


def retry_after(admission: Admission) -> float:
    with pytest.raises(Overloaded) as refused:
        admission.acquire()
    assert refused.value.retry_after_s is not None
    return refused.value.retry_after_s


def test_as_many_as_the_limit_are_admitted_and_no_more():
    admission = filled(3)

    with pytest.raises(Overloaded, match=r"encoder already has 3 .*MAX_QUEUE_ITEMS=3"):
        admission.acquire()
    assert admission.in_use == 3


def test_an_answer_makes_room_for_one():
    admission = filled(2)
    admission.release(now=1.0)
    admission.acquire()

    with pytest.raises(Overloaded):
        admission.acquire()


def test_retry_after_is_the_time_in_which_half_of_the_queue_is_answered():
    admission = filled(100)
    for second in range(200):
        admission.release(now=float(second))
        admission.acquire()

    assert retry_after(admission) == pytest.approx(50.0, rel=0.01)


def test_retry_after_is_at_least_one_second_and_bounded():
    assert retry_after(filled(1)) == 1.0
    slow = filled(100)
    for answer in range(20):
        slow.release(now=answer * 1000.0)
        slow.acquire()
    assert retry_after(slow) == MAX_RETRY_AFTER_S


def test_a_quiet_night_does_not_count_as_slow_work():
    """The hours without any request once counted as the time that an answer takes."""
    admission = Admission(100, "encoder")
    for now in (0.0, 0.01, 30_000.0, 30_000.01):
        admission.acquire()
        admission.release(now)
    for _ in range(100):
        admission.acquire()

    assert retry_after(admission) == 1.0
