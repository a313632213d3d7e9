"""Whose turn it is: classes, ageing, and shares of callers in tokens."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.types import Priority
from app.scheduling.batcher import Batcher, BatchLimits
from app.scheduling.cost_model import CostModel
from app.scheduling.fair_order import AGE_S, AGED_SHARE, TURN_TOKENS, FairOrder
from app.scheduling.queue import Row, RowQueue

COST = CostModel(fixed_ms=2.0, per_token_ms=0.1, per_pair_ms=0.0)


def row(item, caller="ann", tokens=10, priority=Priority.NORMAL, arrived=0.0) -> Row:
    return Row(item, 0, tokens, arrived, None, None, priority, caller)


def order_of(*rows: Row) -> FairOrder[Row]:
    order: FairOrder[Row] = FairOrder()
    for each in rows:
        order.add(each)
    return order


def serve_first(order: FairOrder[Row], now: float = 0.0) -> Row:
    first = order.first(now)
    assert first is not None
    order.serve([first])
    return first


def next_item(order: FairOrder[Row], now: float = 0.0) -> int | None:
    first = order.first(now)
    return first.item_id if first else None


def served_in_turn(order: FairOrder[Row], now: float = 0.0) -> list[Row]:
    served = []
    while (first := order.first(now)) is not None:
        order.serve([first])
        served.append(first)
    return served


def test_a_better_class_goes_first():
    order = order_of(
        row(1, priority=Priority.BATCH), row(2), row(3, priority=Priority.INTERACTIVE), row(4)
    )

    assert [each.item_id for each in served_in_turn(order)] == [3, 2, 4, 1]


def test_a_callers_single_text_waits_for_none_of_anothers_ten_thousand():
    order = order_of(*(row(item, "heavy") for item in range(10_000)))
    for _ in range(100):
        serve_first(order)
    order.add(row(20_000, "light"))

    assert next_item(order) == 20_000


def test_callers_share_tokens_and_not_requests():
    order = order_of(
        *(row(item, "short", tokens=10) for item in range(500)),
        *(row(item, "long", tokens=100) for item in range(500, 600)),
    )
    tokens: Counter[str] = Counter()
    for _ in range(200):
        first = serve_first(order)
        tokens[first.caller] += first.tokens
        assert abs(tokens["short"] - tokens["long"]) <= 100


def document(item, caller, rows, tokens=30) -> list[Row]:
    return [Row(item, at, tokens, 0.0, None, None, Priority.NORMAL, caller) for at in range(rows)]


def test_an_item_of_many_rows_is_served_whole_before_the_next_callers_has_its_turn():
    order = order_of(*document(1, "ann", 5), *document(2, "bob", 5), *document(3, "ann", 5))

    assert [each.item_id for each in served_in_turn(order)] == 5 * [1] + 5 * [2] + 5 * [3]


def test_no_item_keeps_its_turn_for_long():
    order = order_of(*document(1, "ann", 100, tokens=100), row(2, "bob"))
    before = [each.item_id for each in served_in_turn(order)].index(2)

    assert 100 * (before - 1) < TURN_TOKENS <= 100 * before


def test_what_comes_next_is_whole_items_of_those_who_come_first():
    order = order_of(*document(1, "ann", 12), *document(2, "bob", 12), *document(3, "eve", 12))
    serve_first(order)

    walked = [each.item_id for each in order.walk(Priority.NORMAL)]
    assert walked == 11 * [1] + 12 * [2] + 12 * [3]


def test_an_item_that_leaves_in_its_turn_has_been_charged():
    order = order_of(*document(1, "ann", 5), row(2, "bob", tokens=20), row(3, "ann", tokens=20))
    serve_first(order)
    for each in document(1, "ann", 5)[1:]:
        order.remove(each)

    assert next_item(order) == 2


def test_who_was_served_ahead_and_comes_back_has_not_been_forgotten():
    order = order_of(row(1, "greedy", tokens=1000), row(2, "ann"), row(3, "ann"), row(4, "ann"))
    order.serve([row(1, "greedy", tokens=1000)])
    order.add(row(5, "greedy"))

    assert [each.item_id for each in served_in_turn(order)] == [2, 3, 4, 5]


def test_a_pause_earns_nobody_a_burst():
    """Ann was away while Bob was served; on her return they take turns."""
    order = order_of(*(row(item, "bob") for item in range(100)))
    for _ in range(50):
        serve_first(order)
    for item in range(200, 220):
        order.add(row(item, "ann"))
    callers = [each.caller for each in served_in_turn(order)[:20]]

    assert callers.count("ann") == pytest.approx(10, abs=1)


def test_a_row_that_has_aged_gets_its_share_beside_a_better_class():
    old = row(1, priority=Priority.BATCH, arrived=0.0)
    order = order_of(old, *(row(i, priority=Priority.INTERACTIVE) for i in range(2, 500)))
    now, before = AGE_S[Priority.BATCH], 0
    while order.first(now) is not old:
        serve_first(order, now)
        before += 1

    assert before == pytest.approx(1 / AGED_SHARE, abs=1)


def test_a_row_that_has_not_aged_waits_for_the_better_class():
    order = order_of(
        row(1, priority=Priority.BATCH),
        *(row(i, priority=Priority.INTERACTIVE) for i in range(2, 500)),
    )

    assert served_in_turn(order, now=0.5)[-1].item_id == 1


@pytest.mark.parametrize("worse", [Priority.NORMAL, Priority.BATCH])
def test_an_aged_class_has_a_tenth_beside_a_better_one_and_no_more(worse):
    order = order_of(
        *(row(i, priority=Priority.INTERACTIVE) for i in range(2000)),
        *(row(i, tokens=30, priority=worse) for i in range(2000, 4000)),
    )
    tokens: Counter[Priority] = Counter()
    for _ in range(1000):
        first = serve_first(order, now=60.0)
        tokens[first.priority] += first.tokens

    share = tokens[worse] / tokens[Priority.INTERACTIVE]
    assert share == pytest.approx(AGED_SHARE, rel=0.05)


def test_an_endless_row_of_new_callers_does_not_keep_an_old_one_waiting():
    order = order_of(*(row(item, "old") for item in range(2)))
    serve_first(order)
    for item in range(10, 100):
        order.add(row(item, f"caller {item}"))
        order.add(row(100 + item, f"caller {100 + item}"))
        if serve_first(order).caller == "old":
            return

    pytest.fail("the old caller was never served")


def test_what_is_kept_of_callers_does_not_grow_with_all_who_ever_came():
    order = order_of(row(0, "steady"))
    for item in range(1, 5000):
        order.add(row(item, f"caller {item}"))
        serve_first(order)
        if item % 10 == 0:
            order.add(row(100_000 + item, "steady"))
    normal = order._classes[Priority.NORMAL]

    assert len(normal._served_ahead) + len(normal._heap) < 1000


MEMBERS = st.tuples(st.sampled_from("abcdef"), st.integers(1, 60), st.integers(1, 6))


@settings(max_examples=200)
@given(st.lists(MEMBERS, min_size=1, max_size=60), st.lists(st.integers(0, 200), max_size=80))
def test_a_walk_meets_everybody_once_and_begins_with_whose_turn_it_is(members, served):
    rows = [
        each
        for item, (caller, tokens, parts) in enumerate(members)
        for each in document(item, caller, parts, tokens)
    ]
    order = order_of(*rows)
    for pick in served:  # in any order, as company is
        if rows:
            order.serve([rows.pop(pick % len(rows))])
    walked = list(order.walk(Priority.NORMAL))

    assert sorted(each.key for each in walked) == [each.key for each in rows]
    assert walked[:1] == ([order.first(0.0)] if rows else [])
    for caller in "abcdef":
        own = [each.key for each in walked if each.caller == caller]
        assert own == sorted(own)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([5, 10, 28, 60, 200]), min_size=2, max_size=5),
    st.integers(1, 16),
    st.sampled_from([128, 512, 2048]),
)
def test_backlogged_callers_get_the_same_tokens_from_the_batcher(lengths, max_rows, budget):
    """Company is chosen by length, which may favour a caller for a while, never for long: what
    a caller is ahead is bounded by what is looked at."""
    limits = BatchLimits(max_rows, budget, window=16)
    batcher, queue = Batcher(limits, COST), RowQueue()
    queue.add(
        row(10_000 * at + item, f"caller {at}", tokens)
        for at, tokens in enumerate(lengths)
        for item in range(-(-8000 // tokens))
    )
    served = dict.fromkeys((f"caller {at}" for at in range(len(lengths))), 0)
    bound = (limits.rows_considered + max_rows) * max(lengths)
    while sum(served.values()) < 3 * bound and min(served.values()) < 6000:
        batch = batcher.choose(queue, 0.0)
        assert isinstance(batch, list)
        queue.take(batch)
        for each in batch:
            served[each.caller] += each.tokens
        if max(served.values()) < 8000 - bound:
            assert max(served.values()) - min(served.values()) <= bound
