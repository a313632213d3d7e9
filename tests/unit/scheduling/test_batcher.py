"""Which rows share a forward pass. The cost model is invented, time is an argument."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from app.core.types import Priority
from app.scheduling.batcher import FILL_STRETCH, Batcher, BatchLimits, Hold
from app.scheduling.cost_model import CostModel
from app.scheduling.queue import Row, RowQueue

COMPANY_PAYS = CostModel(fixed_ms=20.0, per_token_ms=0.001, per_pair_ms=0.0)
COMPANY_IS_WORTH_NOTHING = CostModel(fixed_ms=0.0, per_token_ms=0.1, per_pair_ms=0.0)
COSTS = st.builds(
    CostModel,
    fixed_ms=st.floats(0.01, 20),
    per_token_ms=st.floats(0.001, 0.5),
    per_pair_ms=st.floats(0, 0.01),
)


def rows_of(*lengths: int, arrived: float = 0.0) -> list[Row]:
    return [Row(item, 0, tokens, arrived) for item, tokens in enumerate(lengths)]


def queue_of(*lengths: int) -> RowQueue:
    queue = RowQueue()
    queue.add(rows_of(*lengths))
    return queue


def lengths(chosen) -> list[int]:
    assert isinstance(chosen, list), f"a batch was expected, not {chosen}"
    return [row.tokens for row in chosen]


def items(chosen) -> list[int]:
    assert isinstance(chosen, list), f"a batch was expected, not {chosen}"
    return [row.item_id for row in chosen]


def batcher(cost=COMPANY_PAYS, *, rows=8, tokens=1000, hold_s=0.1, window=64) -> Batcher:
    return Batcher(BatchLimits(rows, tokens, hold_s, window), cost)


class Arrivals:
    """Rows of ten tokens that come one by one, `gap_s` apart."""

    def __init__(self, batcher: Batcher, gap_s: float) -> None:
        self.batcher = batcher
        self.queue = RowQueue()
        self.now = 0.0
        self._gap_s = gap_s
        self._items = 0

    def come(self, count: int = 1) -> None:
        for _ in range(count):
            self.now += self._gap_s
            self.queue.add([Row(self._items, 0, 10, self.now)])
            self.batcher.note_arrivals(1, self.now)
            self._items += 1

    def leave_all(self) -> None:
        self.queue.take(list(self.queue))

    def choose(self, idle_streams: int = 1):
        return self.batcher.choose(self.queue, self.now, idle_streams)


def test_nothing_is_chosen_while_nothing_waits():
    assert batcher().choose(RowQueue(), now=0.0) is None


def test_a_batch_has_at_most_max_rows():
    assert len(lengths(batcher(rows=3).choose(queue_of(10, 10, 10, 10), 0.0))) == 3


def test_padding_counts_towards_the_token_bound():
    assert sorted(lengths(batcher(tokens=40).choose(queue_of(20, 1, 1, 1), 0.0))) == [1, 20]


def test_a_row_longer_than_the_bound_runs_alone():
    assert lengths(batcher(tokens=40).choose(queue_of(100, 10), 0.0)) == [100]


def test_rows_of_like_length_share_a_batch_with_the_oldest():
    queue = queue_of(10, 200, 11, 190, 12)

    assert sorted(lengths(batcher(COMPANY_IS_WORTH_NOTHING).choose(queue, 0.0))) == [10]
    pays = CostModel(1.0, 0.1, 0.0)
    assert sorted(lengths(batcher(pays, rows=3).choose(queue, 0.0))) == [10, 11, 12]


def test_the_oldest_row_is_taken_even_when_it_fits_nobody():
    queue = queue_of(500, *[10] * 20)

    assert 500 in lengths(batcher(rows=4, tokens=600).choose(queue, 0.0))


def test_waiting_rows_are_spread_over_idle_streams():
    queue, chooser = queue_of(*[10] * 6), batcher()
    sizes = []
    for idle in (3, 2, 1):
        batch = chooser.choose(queue, 0.0, idle)
        assert isinstance(batch, list)
        sizes.append(len(batch))
        queue.take(batch)

    assert sizes == [2, 2, 2]


def test_the_first_request_of_all_waits_for_nobody():
    arrivals = Arrivals(batcher(), gap_s=0.001)
    arrivals.come()

    assert len(lengths(arrivals.choose())) == 1


def test_a_lone_request_after_a_pause_waits_for_nobody():
    arrivals = Arrivals(batcher(), gap_s=60.0)
    for _ in range(3):
        arrivals.come()
        assert len(lengths(arrivals.choose())) == 1
        arrivals.leave_all()


def test_a_caller_who_waits_for_each_answer_is_never_held():
    """He comes back only after the time of a whole batch: waiting can bring no company."""
    gap_s = COMPANY_PAYS.predict_ms(1, 10) / 1000
    arrivals = Arrivals(batcher(), gap_s)
    for _ in range(50):
        arrivals.come()
        assert len(lengths(arrivals.choose())) == 1
        arrivals.leave_all()


def test_a_steady_stream_is_held_for_company_that_pays():
    arrivals = Arrivals(batcher(), gap_s=0.001)
    arrivals.come(20)
    arrivals.leave_all()
    arrivals.come()

    held = arrivals.choose()
    assert isinstance(held, Hold)
    assert arrivals.now < held.until <= arrivals.now + 0.1


def test_a_steady_stream_is_not_held_where_company_is_worth_nothing():
    arrivals = Arrivals(batcher(COMPANY_IS_WORTH_NOTHING), gap_s=0.001)
    arrivals.come(20)
    arrivals.leave_all()
    arrivals.come()

    assert len(lengths(arrivals.choose())) == 1


def test_holding_ends_when_company_has_failed_to_come_for_what_it_is_worth():
    """Another row saves 20 ms: a lone row waits for it 20 ms and no longer."""
    arrivals = Arrivals(batcher(), gap_s=0.001)
    arrivals.come(20)
    arrivals.leave_all()
    arrivals.come()
    held = arrivals.choose()

    assert held.until == pytest.approx(arrivals.now + 0.020, abs=0.001)
    arrivals.now = held.until
    assert len(lengths(arrivals.choose())) == 1


def test_one_wait_covers_the_whole_hold():
    """The end of a hold was once the next expected arrival: a burst a microsecond apart made
    the worker wake up every microsecond until the hold was over."""
    arrivals = Arrivals(batcher(), gap_s=1e-6)
    arrivals.come(50)
    arrivals.leave_all()
    arrivals.come()

    wakes = 0
    while isinstance(held := arrivals.choose(), Hold):
        arrivals.now = held.until
        wakes += 1
    assert wakes == 1


def test_a_hold_never_outlasts_the_bound_however_well_company_pays():
    arrivals = Arrivals(batcher(CostModel(1e6, 0.001, 0.0), rows=500, tokens=10**6), gap_s=0.001)
    arrivals.come(20)
    arrivals.leave_all()
    arrivals.come()
    first = arrivals.now
    while isinstance(held := arrivals.choose(), Hold):
        assert held.until <= first + 0.1
        arrivals.come()

    assert arrivals.now == pytest.approx(first + 0.1, abs=0.002)


def test_a_full_batch_is_not_held():
    arrivals = Arrivals(batcher(rows=4), gap_s=0.001)
    arrivals.come(4)

    assert len(lengths(arrivals.choose())) == 4


def test_a_batch_that_no_further_row_fits_is_not_held():
    arrivals = Arrivals(batcher(tokens=39), gap_s=0.001)
    arrivals.come(3)

    assert len(lengths(arrivals.choose())) == 3


def test_nobody_is_held_while_a_second_stream_is_idle_too():
    """The next row would run there at once: what was held would still run alone, only later."""
    arrivals = Arrivals(batcher(), gap_s=0.001)
    arrivals.come(20)
    arrivals.leave_all()
    arrivals.come()

    assert len(lengths(arrivals.choose(idle_streams=2))) == 1


def test_a_hold_ends_in_time_for_the_deadline():
    cost = CostModel(fixed_ms=20.0, per_token_ms=0.0, per_pair_ms=0.0)
    arrivals = Arrivals(batcher(cost), gap_s=0.001)
    arrivals.come(20)
    arrivals.leave_all()
    arrivals.come()
    (row,) = arrivals.queue
    arrivals.leave_all()
    arrivals.queue.add([Row(row.item_id, 0, row.tokens, row.arrived, row.arrived + 0.025)])

    assert arrivals.choose().until == pytest.approx(row.arrived + 0.005)


def test_rows_beyond_the_window_are_company_enough():
    """All rows of the window in one batch once looked like an empty queue, and were held."""
    arrivals = Arrivals(batcher(rows=4, window=2), gap_s=0.001)
    arrivals.come(5)

    assert len(lengths(arrivals.choose())) == 4


def test_a_batch_may_be_larger_than_the_window():
    """MAX_BATCH_SIZE above the window's 64 was once never reached."""
    chosen = batcher(rows=100, tokens=10**6).choose(queue_of(*[10] * 200), 0.0)

    assert len(lengths(chosen)) == 100


def test_a_row_whose_deadline_the_batch_would_miss_is_left_for_another():
    """Company for the head would make all end after 26 ms; the middle row has 21."""
    cost = CostModel(fixed_ms=20.0, per_token_ms=0.1, per_pair_ms=0.0)
    queue = RowQueue()
    queue.add([Row(1, 0, 20, 0.0), Row(2, 0, 20, 0.0, deadline=0.0225), Row(3, 0, 20, 0.0)])

    assert sorted(items(batcher(cost).choose(queue, 0.0))) == [1, 3]


def test_the_heads_own_deadline_bounds_its_batch():
    cost = CostModel(fixed_ms=20.0, per_token_ms=0.1, per_pair_ms=0.0)
    queue = RowQueue()
    queue.add([Row(1, 0, 20, 0.0, deadline=0.0258), *(Row(i, 0, 20, 0.0) for i in range(2, 9))])

    assert len(lengths(batcher(cost).choose(queue, 0.0))) == 2


def test_a_row_that_would_miss_its_deadline_otherwise_comes_first():
    """Company of the head's own length is there in plenty, but can wait."""
    cost = CostModel(fixed_ms=20.0, per_token_ms=0.01, per_pair_ms=0.0)
    queue = RowQueue()
    queue.add(Row(i, 0, 20, 0.0) for i in range(100))
    queue.add([Row(200, 0, 60, 0.0, deadline=0.040)])

    assert 200 in items(batcher(cost).choose(queue, 0.0))


def test_a_long_row_is_in_time_beside_an_endless_row_of_short_ones():
    """No batch within the budget holds it and another row, so it only ever ran as the head."""
    cost = CostModel(fixed_ms=1.0, per_token_ms=0.1, per_pair_ms=0.0)
    queue, chooser = RowQueue(), batcher(cost, rows=4, tokens=80)
    queue.add(Row(i, 0, 20, 0.0, deadline=10.0) for i in range(100))
    queue.add([Row(200, 0, 60, 0.0, deadline=0.040)])

    first = chooser.choose(queue, 0.015)
    assert items(first) == [200]
    queue.take([row for row in queue if row.item_id == 200])
    assert 0 in items(chooser.choose(queue, 0.022))


def test_a_head_lets_others_go_first_only_once():
    cost = CostModel(fixed_ms=20.0, per_token_ms=0.01, per_pair_ms=0.0)
    queue, chooser = RowQueue(), batcher(cost, rows=1)
    queue.add([Row(1, 0, 20, 0.0)])
    queue.add(Row(i, 0, 20, 0.0, deadline=0.06 + i / 1e6) for i in (2, 3))

    order = []
    while isinstance(batch := chooser.choose(queue, 0.0), list):
        order += items(batch)
        queue.take(batch)
    assert order == [2, 1, 3]


def test_a_row_that_is_late_anyway_runs_when_nothing_else_waits():
    cost = CostModel(fixed_ms=20.0, per_token_ms=0.1, per_pair_ms=0.0)
    queue, chooser = RowQueue(), batcher(cost, rows=1)
    queue.add([Row(1, 0, 20, 0.0, deadline=0.01), Row(2, 0, 20, 0.0)])

    order = []
    while isinstance(batch := chooser.choose(queue, 0.0), list):
        order += items(batch)
        queue.take(batch)
    assert order == [2, 1]


def test_who_sends_one_text_beside_thousands_waits_for_no_company_of_theirs():
    """They fill his batch as those of a worse class do."""
    cost = CostModel(fixed_ms=1.0, per_token_ms=0.1, per_pair_ms=0.0)
    queue, chooser = RowQueue(), batcher(cost)
    queue.add(Row(i, 0, 10, 0.0, caller="heavy") for i in range(200))
    first = chooser.choose(queue, 0.0)
    assert len(items(first)) == 8
    queue.take(list(queue)[:8])

    queue.add([Row(1000, 0, 10, 0.0, caller="light")])
    chosen = items(chooser.choose(queue, 0.001))
    assert chosen == [1000]
    queue.drop(1000, 1)
    queue.add(Row(i, 0, 10, 0.0, caller="light") for i in range(1000, 1100))
    assert len(items(chooser.choose(queue, 0.001))) == 8


def test_rows_of_a_worse_class_fill_what_costs_the_head_little():
    urgent, patient = Priority.INTERACTIVE, Priority.BATCH
    queue = RowQueue()
    queue.add(Row(i, 0, 10, 0.0, priority=patient) for i in range(1, 9))
    queue.add([Row(100, 0, 10, 0.0, priority=urgent)])

    little = CostModel(fixed_ms=20.0, per_token_ms=0.01, per_pair_ms=0.0)
    chosen = items(batcher(little).choose(queue, 0.0))
    assert chosen[0] == 100 and len(chosen) == 8
    much = CostModel(fixed_ms=1.0, per_token_ms=0.1, per_pair_ms=0.0)
    assert items(batcher(much).choose(queue, 0.0)) == [100]


def best_rate_by_trying_everything(waiting: list[Row], limits: BatchLimits, cost: CostModel):
    by_length = sorted(waiting, key=lambda row: row.tokens)
    at = by_length.index(waiting[0])
    rates = []
    for first in range(at + 1):
        for end in range(at + 1, len(by_length) + 1):
            run = by_length[first:end]
            longest = run[-1].tokens
            fits = len(run) == 1 or len(run) * longest <= limits.max_padded_tokens
            if fits and len(run) <= limits.max_rows:
                rates.append(sum(r.tokens for r in run) / cost.predict_ms(len(run), longest))
    return max(rates)


@settings(max_examples=300)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=12),
    st.integers(1, 8),
    st.integers(1, 300),
    COSTS,
)
def test_no_run_of_like_lengths_around_the_oldest_does_better(row_lengths, rows, tokens, cost):
    limits = BatchLimits(rows, tokens)
    queue = queue_of(*row_lengths)
    chosen = Batcher(limits, cost).choose(queue, 0.0)

    took = lengths(chosen)
    rate = sum(took) / cost.predict_ms(len(took), max(took))
    assert rate == pytest.approx(best_rate_by_trying_everything(list(queue), limits, cost))


class QueueAndBatcher(RuleBasedStateMachine):
    """Rows come, leave, expire and run in any order; the books must always agree."""

    @initialize(
        rows=st.integers(1, 8),
        tokens=st.sampled_from([200, 20, 60, 1000]),
        hold_s=st.sampled_from([0.1, 0.01, 0.0]),
        window=st.sampled_from([10, 1, 3]),
        cost=st.just(COMPANY_PAYS) | COSTS,
    )
    def start(self, rows, tokens, hold_s, window, cost):
        self.limits = BatchLimits(rows, tokens, hold_s, window)
        self.batcher = Batcher(self.limits, cost)
        self.queue = RowQueue()
        self.now = 0.0
        self.let_pass = None
        self.items: dict[int, int] = {}  # item -> number of rows
        self.waiting: list[Row] = []  # as the books should be, in order of arrival
        self.arrivals = 0

    @rule(
        row_lengths=st.lists(st.integers(1, 60), min_size=1, max_size=4),
        left=st.sampled_from([None, None, 0.002, 0.04, 1.0]),
        priority=st.sampled_from([Priority.NORMAL, Priority.INTERACTIVE, Priority.BATCH]),
        caller=st.sampled_from(["ann", "bob", "eve"]),
    )
    def add(self, row_lengths, left, priority=Priority.NORMAL, caller="ann"):
        item = len(self.items)
        deadline = None if left is None else self.now + left
        rows = [
            Row(item, i, n, self.now, deadline, None, priority, caller)
            for i, n in enumerate(row_lengths)
        ]
        self.items[item] = len(rows)
        self.waiting += rows
        self.arrivals += 1
        self.queue.add(rows)
        self.batcher.note_arrivals(len(rows), self.now)

    @rule(gaps=st.lists(st.sampled_from([0.0, 0.0001, 0.003]), min_size=2, max_size=6))
    def a_stream_of_short_rows(self, gaps):
        for gap in gaps:
            self.now += gap
            self.add([10], None)

    @rule(pick=st.integers(0, 100), live=st.sampled_from([True, True, False]))
    def cancel(self, pick, live):
        items = [row.item_id for row in self.waiting] if live else list(self.items)
        if items:
            self._drop(items[pick % len(items)])

    @rule(seconds=st.sampled_from([0.0001, 0.003, 0.05, 1.5]))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(idle=st.sampled_from([1, 1, 2, 4]))
    def run_what_is_chosen(self, idle):
        for item in self.queue.expired(self.now):
            assert any(r.item_id == item and r.is_expired(self.now) for r in self.waiting)
            self._drop(item)
        assert not any(row.is_expired(self.now) for row in self.waiting)
        head = self.queue.head(self.now, lambda row: self._slack_ms(row) < self._alone_ms(row))
        chosen = self.batcher.choose(self.queue, self.now, idle)
        if chosen is None:
            assert not self.waiting
        elif isinstance(chosen, Hold):
            self._check_hold(chosen, idle)
        else:
            self._check_batch(chosen, head, idle)
            self.queue.take(chosen)
            self.waiting = [row for row in self.waiting if row not in chosen]

    @rule()
    def run_all_that_may_run(self):
        """As one stream does: batch after batch until it is held or nothing is left."""
        before = -1
        while before != len(self.waiting):
            before = len(self.waiting)
            self.run_what_is_chosen(1)

    def _check_hold(self, hold, idle):
        assert self.now < hold.until <= self.waiting[0].arrived + self.limits.max_hold_s
        assert all(r.deadline is None or hold.until <= r.deadline for r in self.waiting)
        assert len(self.waiting) < self.limits.max_rows
        assert self.arrivals > 1, "a lone request was held"
        assert idle == 1

    def _check_batch(self, batch, head, idle):
        assert len(set(batch)) == len(batch) <= self.limits.max_rows
        if head not in batch:
            assert head.key != self.let_pass, "twice in a row"
            ms = self.batcher.cost.predict_ms(len(batch), max(row.tokens for row in batch))
            assert self._slack_ms(head) >= ms + self._alone_ms(head)
            assert any(row.deadline is not None for row in batch)
        self.let_pass = None if head in batch else head.key
        assert set(batch) <= set(self.waiting)
        assert not any(row.is_expired(self.now) for row in batch)
        longest = max(row.tokens for row in batch)
        assert len(batch) == 1 or len(batch) * longest <= self.limits.max_padded_tokens
        assert len(batch) <= -(-len(self.waiting) // idle)
        ms = self.batcher.cost.predict_ms(len(batch), longest)
        for row in batch:
            is_late = self._slack_ms(row) < self._alone_ms(row)
            assert row == head if is_late else self._slack_ms(row) >= ms * 0.999
        like = [row for row in batch if row.priority <= head.priority]
        least_ms = self.batcher.cost.predict_ms(len(like), max(row.tokens for row in like))
        assert len(like) == len(batch) or ms <= FILL_STRETCH * least_ms * 1.001

    def _slack_ms(self, row):
        return float("inf") if row.aim is None else (row.aim - self.now) * 1000

    def _alone_ms(self, row):
        return self.batcher.cost.predict_ms(1, row.tokens)

    def _drop(self, item):
        expected = sum(row.item_id == item for row in self.waiting)
        assert self.queue.drop(item, self.items[item]) == expected
        self.waiting = [row for row in self.waiting if row.item_id != item]

    @invariant()
    def nothing_is_lost_or_doubled(self):
        if hasattr(self, "queue"):
            assert list(self.queue) == self.waiting

    def teardown(self):
        """Everybody left has his turn, and the books are empty then."""
        for _ in range(len(getattr(self, "waiting", []))):
            self.now += self.limits.max_hold_s
            self.run_what_is_chosen(1)
        assert not getattr(self, "waiting", [])


TestQueueAndBatcher = QueueAndBatcher.TestCase
TestQueueAndBatcher.settings = settings(max_examples=100, stateful_step_count=40)


def test_it_says_when_a_batch_is_another_for_who_waited_too_long():
    """Of like length would be better company for the head than who has to go now."""
    cost = CostModel(fixed_ms=1.0, per_token_ms=1.0, per_pair_ms=0.0)

    def is_pressed(arrived: float) -> bool:
        queue, chooser = RowQueue(), batcher(cost, rows=2, tokens=100, hold_s=0.0)
        queue.add(Row(i, 0, 20, 0.0, deadline=1000.0) for i in range(4))
        queue.add([Row(9, 0, 3, arrived, deadline=0.1)])
        chosen = items(chooser.choose(queue, 0.0))
        assert 9 in chosen
        return chooser.is_pressed

    assert is_pressed(arrived=-10.0)
    assert not is_pressed(arrived=-0.001)
