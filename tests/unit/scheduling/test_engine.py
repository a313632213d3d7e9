"""Which sequences run, step by step."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from app.core.types import Priority
from app.scheduling.engine import Sequence, StepScheduler


def sequence(item_id: int, tokens: int = 10, deadline: float | None = None) -> Sequence:
    return Sequence(item_id, tokens, arrived=0.0, deadline=deadline)


def scheduler_of(*sequences: Sequence, max_sequences: int = 4, max_tokens: int = 100):
    scheduler = StepScheduler(max_sequences, max_tokens)
    for each in sequences:
        assert scheduler.add(each)
    return scheduler


def joined(scheduler: StepScheduler, now: float = 0.0) -> list[int]:
    return [each.item_id for each in scheduler.plan(now).join]


def test_sequences_join_at_the_next_step_in_order_of_arrival():
    assert joined(scheduler_of(sequence(3), sequence(1), sequence(2))) == [3, 1, 2]


def test_no_more_run_than_the_bound_and_the_rest_joins_as_room_is_made():
    scheduler = scheduler_of(*(sequence(i) for i in range(4)), max_sequences=2)

    assert joined(scheduler) == [0, 1]
    assert joined(scheduler) == []
    scheduler.apply([0])
    assert joined(scheduler) == [2]
    assert (scheduler.waiting, scheduler.running) == (1, 2)


def test_a_sequence_joins_only_when_all_its_possible_tokens_fit():
    scheduler = scheduler_of(sequence(1, tokens=60), sequence(2, tokens=50))

    assert joined(scheduler) == [1]
    scheduler.apply([1])
    assert joined(scheduler) == [2]


def test_a_large_sequence_lets_as_many_tokens_go_first_as_it_needs_and_no_more():
    scheduler = scheduler_of(
        sequence(1, tokens=60),
        sequence(2, tokens=50),
        *(sequence(i, tokens=20) for i in (3, 4, 5, 6)),
        max_sequences=9,
    )

    assert joined(scheduler) == [1, 3, 4]
    scheduler.apply([3, 4])
    assert joined(scheduler) == []
    scheduler.apply([1])
    assert joined(scheduler) == [2, 5, 6]


def test_small_sequences_never_keep_a_large_one_out_for_ever():
    scheduler = scheduler_of(sequence(0, tokens=50), sequence(1, tokens=90))
    scheduler.plan(0.0)
    for item in range(2, 50):
        scheduler.add(sequence(item, tokens=30))
        if 1 in joined(scheduler):
            return
        scheduler.apply([item - 2, item - 1] if item > 3 else [0])

    pytest.fail("the large sequence never joined")


def test_sequences_join_by_class_and_callers_take_turns_by_tokens():
    def of(item, caller, tokens=10, priority=Priority.NORMAL):
        return Sequence(item, tokens, 0.0, None, priority, caller)

    scheduler = scheduler_of(
        *(of(item, "heavy", tokens=20) for item in range(4)),
        *(of(item, "light") for item in range(4, 8)),
        of(9, "heavy", priority=Priority.BATCH),
        of(10, "heavy", priority=Priority.INTERACTIVE),
        max_sequences=1,
    )
    order = []
    while took := joined(scheduler):
        order += took
        scheduler.apply(took)

    assert order == [10, 0, 4, 5, 1, 6, 7, 2, 3, 9]


def test_a_sequence_larger_than_the_cache_is_refused_at_the_door():
    scheduler = scheduler_of()

    assert not scheduler.add(sequence(1, tokens=101))
    assert scheduler.add(sequence(2, tokens=100))
    assert joined(scheduler) == [2]


def test_a_cancelled_sequence_that_waits_never_joins():
    scheduler = scheduler_of(sequence(1), sequence(2))
    scheduler.cancel(1)

    plan = scheduler.plan(0.0)
    assert ([s.item_id for s in plan.join], plan.leave, plan.expired) == ([2], (), ())


def test_a_cancelled_sequence_that_runs_leaves_before_the_next_step_and_makes_room():
    scheduler = scheduler_of(sequence(1), sequence(2), max_sequences=1)
    scheduler.plan(0.0)
    scheduler.cancel(1)

    plan = scheduler.plan(0.0)
    assert (plan.leave, plan.expired) == ((1,), ())
    assert [s.item_id for s in plan.join] == [2]


def test_an_expired_sequence_that_waits_is_told_and_never_joins():
    plan = scheduler_of(sequence(1, deadline=5.0)).plan(now=5.0)

    assert (plan.join, plan.leave, plan.expired) == ((), (), (1,))


def test_an_expired_sequence_that_runs_leaves_and_is_told():
    scheduler = scheduler_of(sequence(1, deadline=5.0))
    scheduler.plan(now=4.9)

    plan = scheduler.plan(now=5.0)
    assert (plan.leave, plan.expired) == ((1,), (1,))


def test_a_caller_who_left_is_not_told_of_the_deadline():
    scheduler = scheduler_of(sequence(1, deadline=5.0))
    scheduler.plan(now=0.0)
    scheduler.cancel(1)

    plan = scheduler.plan(now=5.0)
    assert (plan.leave, plan.expired) == ((1,), ())


@pytest.mark.parametrize("order", ["cancelled first", "finished first"])
def test_a_sequence_that_is_cancelled_and_finishes_ends_once(order):
    scheduler = scheduler_of(sequence(1))
    scheduler.plan(0.0)
    for act in (scheduler.cancel, lambda i: scheduler.apply([i]))[:: 1 if "c" in order[0] else -1]:
        act(1)

    plan = scheduler.plan(0.0)
    assert (plan.leave, plan.expired, scheduler.running) == ((), (), 0)


class Steps(RuleBasedStateMachine):
    """Sequences come, leave, expire and finish in any order; each ends once."""

    @initialize(max_sequences=st.integers(1, 4), max_tokens=st.integers(25, 60))
    def start(self, max_sequences, max_tokens):
        self.scheduler = StepScheduler(max_sequences, max_tokens)
        self.now = 0.0
        self.all: list[Sequence] = []
        self.waiting: list[int] = []  # in order of arrival
        self.running: set[int] = set()
        self.ran: set[int] = set()
        self.left: set[int] = set()  # cancelled while running, to leave before the next step
        self.ended: dict[int, str] = {}
        self.passed: dict[int, int] = {}  # tokens that joined before whose turn it was

    def _end(self, item: int, how: str) -> None:
        assert item not in self.ended, f"{item} ended twice"
        self.ended[item] = how

    @rule(tokens=st.integers(1, 30), left=st.sampled_from([None, None, 0.5, 2.0, 5.0]))
    def add(self, tokens, left):
        deadline = None if left is None else self.now + left
        new = Sequence(len(self.all), tokens, self.now, deadline)
        self.all.append(new)
        if self.scheduler.add(new):
            assert tokens <= self.scheduler.max_tokens
            self.waiting.append(new.item_id)
        else:
            assert tokens > self.scheduler.max_tokens
            self._end(new.item_id, "refused")

    @rule(pick=st.integers(0, 100), live=st.sampled_from([True, True, False]))
    def cancel(self, pick, live):
        items = [*sorted(self.running), *self.waiting] if live else sorted(self.ended)
        if not items:
            return
        item = items[pick % len(items)]
        self.scheduler.cancel(item)
        if item in self.waiting:
            self.waiting.remove(item)
            self._end(item, "cancelled")
        elif item in self.running:
            self.left.add(item)

    @rule(seconds=st.sampled_from([0.0, 0.5, 3.0]))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(finish=st.sampled_from([set(), set(), {0}, {1, 2}]))
    def step(self, finish):
        plan = self.scheduler.plan(self.now)
        late = {s.item_id for s in self.all if s.is_expired(self.now)}
        assert set(plan.leave) == self.left | (late & self.running)
        assert set(plan.expired) == late & ((self.running - self.left) | set(self.waiting))
        for item in plan.expired:
            self._end(item, "expired")
        for item in self.left:
            self._end(item, "cancelled")
        self.running -= set(plan.leave)
        self.left = set()
        self.waiting = [item for item in self.waiting if item not in plan.expired]
        self._check_joins([s.item_id for s in plan.join])
        done = [item for at, item in enumerate(sorted(self.running)) if at in finish]
        self.scheduler.apply(done)
        for item in done:
            self.running.discard(item)
            self._end(item, "finished")

    def _check_joins(self, joins: list[int]) -> None:
        for item in joins:
            first = self.waiting[0]
            if item != first:
                self.passed[first] = self.passed.get(first, 0) + self.all[item].tokens
                assert self.passed[first] <= self.all[first].tokens, "overtaken too often"
            self.waiting.remove(item)
            self.running.add(item)
            self.ran.add(item)
        used = sum(self.all[item].tokens for item in self.running)
        assert used <= self.scheduler.max_tokens
        assert len(self.running) <= self.scheduler.max_sequences
        if self.waiting and len(self.running) < self.scheduler.max_sequences:
            assert used + self.all[self.waiting[0]].tokens > self.scheduler.max_tokens

    @invariant()
    def every_sequence_is_in_one_place(self):
        if not hasattr(self, "all"):
            return
        assert self.scheduler.waiting == len(self.waiting)
        assert self.scheduler.waiting_tokens == sum(self.all[i].tokens for i in self.waiting)
        ran_and_left = self.ran - self.running
        assert self.scheduler.freed_tokens == sum(self.all[i].tokens for i in ran_and_left)
        assert self.scheduler.running == len(self.running)
        places = [*self.waiting, *self.running, *self.ended]
        assert sorted(places) == list(range(len(self.all)))

    def teardown(self):
        """Whatever is left comes to its end, one finished sequence per step."""
        for _ in range(2 * len(getattr(self, "all", []))):
            self.step({0})
        if hasattr(self, "all"):
            assert len(self.ended) == len(self.all)


TestSteps = Steps.TestCase
TestSteps.settings = settings(max_examples=60, stateful_step_count=40)
