"""The bound in front of every queue."""

from collections import deque
from contextlib import suppress

import pytest

from app.core.errors import Overloaded
from app.core.types import Asker, Priority
from app.scheduling.admission import LEAST_SLACK, MAX_RETRY_AFTER_S, Admission


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


WORK_MS = 10.0


def busy(*work: tuple[Asker, float]) -> Admission:
    """Its worker says that a unit of work takes 10 ms."""
    admission = Admission(1000, "encoder")
    for asker, amount in work:
        admission.acquire(asker, amount)
    admission.note_backlog(WORK_MS * sum(amount for _, amount in work))
    return admission


def takes(admission: Admission, asker: Asker, timeout_ms: float) -> bool:
    try:
        admission.acquire(asker, 1, timeout_ms)
    except Overloaded:
        return False
    admission.release(0.0, asker, 1)
    return True


ANN, BOB = Asker("ann"), Asker("bob")


def test_what_would_come_too_late_is_refused_with_the_time_when_it_would_not():
    admission = busy((ANN, 999))

    with pytest.raises(
        Overloaded, match=r"in about 12\.0 s, after the deadline in 4\.0 s"
    ) as refused:
        admission.acquire(ANN, 1, timeout_ms=4000)
    assert refused.value.retry_after_s == pytest.approx(8.0)
    assert takes(admission, ANN, timeout_ms=12_700)


def test_nothing_is_refused_by_a_prediction_while_idle_or_before_one_was_made():
    admission = Admission(1000, "encoder")
    for _ in range(900):
        admission.acquire(ANN, 100)
    assert takes(admission, ANN, timeout_ms=1)

    admission.note_backlog(1e9)
    assert not takes(admission, ANN, timeout_ms=1)
    for _ in range(900):
        admission.release(0.0, ANN, 100)
    assert takes(admission, ANN, timeout_ms=1)


def test_the_backlog_of_one_caller_does_not_refuse_another():
    assert takes(busy((ANN, 1000)), BOB, timeout_ms=30)
    assert not takes(busy((ANN, 1000), (BOB, 10)), BOB, timeout_ms=30)


def test_a_worse_class_does_not_count_and_a_better_one_does():
    def of(priority: Priority) -> Asker:
        return Asker("eve", priority)

    behind = busy((of(Priority.BATCH), 1000))
    assert takes(behind, of(Priority.NORMAL), timeout_ms=25)
    before = busy((of(Priority.INTERACTIVE), 1000))
    assert not takes(before, of(Priority.NORMAL), timeout_ms=25)


def test_what_was_answered_since_the_report_no_longer_counts():
    admission = busy((ANN, 500), (ANN, 500))
    assert not takes(admission, ANN, timeout_ms=6000)
    admission.release(1.0, ANN, 500)
    assert takes(admission, ANN, timeout_ms=7000)


def test_a_quiet_night_does_not_count_as_slow_work():
    """The hours without any request once counted as the time that an answer takes."""
    admission = Admission(100, "encoder")
    for now in (0.0, 0.01, 30_000.0, 30_000.01):
        admission.acquire()
        admission.release(now)
    for _ in range(100):
        admission.acquire()

    assert retry_after(admission) == 1.0


def full(limit: int, priority: Priority) -> Admission:
    admission = Admission(limit, "encoder")
    for _ in range(limit):
        admission.acquire(Asker("eve", priority))
    return admission


def test_interactive_work_finds_room_in_a_queue_that_others_filled():
    admission = full(16, Priority.BATCH)
    for _ in range(2):
        admission.acquire(Asker("ann", Priority.INTERACTIVE))

    for priority in Priority:
        with pytest.raises(Overloaded, match="MAX_QUEUE_ITEMS=16"):
            admission.acquire(Asker("ann", priority))


def test_time_for_the_way_of_the_answer_and_some_slack_are_kept():
    assert takes(busy((ANN, 78)), ANN, timeout_ms=1000)
    assert not takes(busy((ANN, 79)), ANN, timeout_ms=1000)


@pytest.mark.parametrize("pace", [1.0, 1.5, 2.5])
def test_overload_keeps_the_queue_filled_and_within_its_deadlines(pace: float):
    """A factor that each late input moved once went from 1 to its bound within a second, and the
    queue ran dry while it came back: what is taken now is known to be late a second later."""
    admission, deadline_ms, cost_ms = Admission(10_000, "encoder"), 1000.0, 3.0
    queue: deque[tuple[float, bool]] = deque()  # when it came, whether its end was near
    good = late = idle = 0
    for tick in range(30_000):
        now_ms = tick * cost_ms
        for _ in range(3):  # three times what could be answered at the pace that is reported
            with suppress(Overloaded):
                queue.append((now_ms, admission.acquire(ANN, 1.0, deadline_ms)))
        admission.note_backlog(len(queue) * cost_ms)
        while queue and now_ms - queue[0][0] >= deadline_ms:
            _, is_near = queue.popleft()
            if is_near:
                admission.note_end(now_ms / 1000, is_late=True)
            admission.release(now_ms / 1000, ANN)
            late += 1
        if tick % pace >= 1:
            continue  # others use the processor
        if queue:
            _, is_near = queue.popleft()
            if is_near:
                admission.note_end(now_ms / 1000, is_late=False)
            admission.release(now_ms / 1000, ANN)
            good += 1
        else:
            idle += 1

    assert idle < 0.05 * good
    assert late < 0.1 * good


def test_only_what_is_taken_near_its_deadline_tells_of_predictions():
    admission = busy((ANN, 10))
    assert not admission.acquire(ANN, 1, timeout_ms=60_000)
    assert admission.acquire(ANN, 1, timeout_ms=200)


def test_classes_have_a_slack_of_their_own_that_falls_when_all_are_in_time():
    admission = Admission(100, "encoder")
    for tick in range(1000):
        admission.note_end(tick / 100, is_late=True)
    risen = admission.slack(Priority.NORMAL)
    assert risen > 2
    assert admission.slack(Priority.INTERACTIVE) == LEAST_SLACK

    for tick in range(1000, 2000):
        admission.note_end(tick / 100, is_late=False)
    assert LEAST_SLACK < admission.slack(Priority.NORMAL) < risen


def test_beside_others_who_keep_coming_a_caller_is_told_of_turns_that_are_not_there_yet():
    """Everybody has one input waiting, and sends the next as soon as it is answered; who has
    three waits for three rounds, not for one and a half."""
    callers = [Asker(f"caller {number}") for number in range(10)]
    admission = busy(*((caller, 1) for caller in callers), (ANN, 2))
    for second in range(1, 6):
        for caller in callers:
            for _ in range(10):  # together all of the worker's time
                admission.release(float(second), caller, 1)
                admission.acquire(caller, 1)
    assert not takes(admission, ANN, timeout_ms=1.2 * 3 * 11 * WORK_MS)
    assert takes(admission, ANN, timeout_ms=1.3 * 3 * 11 * WORK_MS)


def test_others_who_come_now_and_then_slow_a_heavy_caller_by_what_they_use():
    admission = busy((ANN, 900), *((Asker(f"caller {number}"), 1) for number in range(9)))
    for tenth in range(1, 60):
        caller = Asker(f"caller {tenth % 9}")
        admission.release(tenth / 10, caller, 2)  # a fifth of the worker's time
        admission.acquire(caller, 2)
    alone_ms = 900 * WORK_MS
    assert not takes(admission, ANN, timeout_ms=1.2 * 1.1 * alone_ms)
    assert takes(admission, ANN, timeout_ms=1.2 * 1.4 * alone_ms)


def test_predictions_grow_while_batches_are_formed_for_who_waited_too_long():
    admission = busy((ANN, 100))
    before = admission.slack(Priority.NORMAL)
    admission.note_backlog(1000.0, pressed=1.0)
    assert admission.slack(Priority.NORMAL) == before  # nobody was taken near his deadline

    admission.note_end(0.1, is_late=False)
    for _ in range(3):
        admission.note_backlog(1000.0, pressed=0.05)
    assert admission.slack(Priority.NORMAL) == before
    for _ in range(3):
        admission.note_backlog(1000.0, pressed=0.5)
    assert admission.slack(Priority.NORMAL) == pytest.approx(before * 1.15**3)
    assert admission.slack(Priority.INTERACTIVE) == before
