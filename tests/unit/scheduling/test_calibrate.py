"""Choosing how a model uses this machine, from invented measurements."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.scheduling.calibrate import DOCUMENTS, HANDLING_MS, TEXTS, Choice, choose, grid
from app.scheduling.cost_model import CostModel, Sample

LINEAR = CostModel(0.0, 5.0, 0.0)  # a batch of two costs two of one; handling is nothing to it
COSTLY_START = CostModel(5.0, 0.01, 0.0)  # what every batch pays dwarfs what a token costs


def chosen_on(machine: CostModel, streams: int = 1, max_rows: int = 8) -> Choice:
    samples = [Sample(r, t, machine.predict_ms(r, t)) for r, t in grid(max_rows, 256)]
    return choose(samples, streams, max_rows, 256, max_hold_s=0.1)


@given(st.integers(1, 1024), st.integers(1, 8192))
def test_grid_stays_within_the_bounds_of_model_and_batch(max_rows, max_tokens):
    shapes = grid(max_rows, max_tokens)

    assert len(shapes) == len(set(shapes)) <= 9
    for rows, tokens in shapes:
        assert 1 <= rows <= max_rows
        assert 1 <= tokens <= max_tokens
        assert rows == 1 or rows * tokens <= TEXTS.grid_batch
    assert (1, max_tokens) in shapes, "the longest row the model takes is measured"


def test_grid_measures_lone_rows_and_the_largest_batch():
    assert {(1, 16), (4, 64), (8, 16), (8, 256)} <= set(grid(max_rows=8, max_tokens=256))


def test_realistic_lengths_are_skewed_as_texts_are_and_the_same_each_time():
    lengths = sorted(TEXTS.lengths(1001, max_tokens=256))

    assert lengths == sorted(TEXTS.lengths(1001, max_tokens=256))
    assert 25 <= lengths[500] <= 31
    assert 52 <= lengths[900] <= 70
    assert lengths[-1] <= 256


def test_smallest_budget_wins_where_larger_batches_do_not_pay():
    assert chosen_on(LINEAR).limits.max_padded_tokens == TEXTS.budgets[0]


def test_budget_grows_until_full_batches_fit_where_starting_a_batch_is_dear():
    small, large = chosen_on(COSTLY_START, max_rows=2), chosen_on(COSTLY_START, max_rows=32)

    assert small.limits.max_padded_tokens < large.limits.max_padded_tokens
    assert large.limits.max_padded_tokens >= 1024


def test_choice_carries_the_bounds_it_was_given_and_counts_the_handling_of_a_batch():
    choice = chosen_on(COSTLY_START)

    assert (choice.limits.max_rows, choice.limits.max_hold_s) == (8, 0.1)
    assert choice.cost.predict_ms(3, 100) == pytest.approx(
        COSTLY_START.predict_ms(3, 100) + HANDLING_MS
    )


def test_pace_is_what_the_machine_does_on_those_lengths():
    """Linear costs without a fixed part: padding aside, 5 ms per token are 200 per second."""
    one, two = chosen_on(LINEAR), chosen_on(LINEAR, streams=2)

    assert 0.9 * 200 < one.tokens_per_s <= 200
    assert two.tokens_per_s == pytest.approx(2 * one.tokens_per_s)


@given(st.integers(1, 64), st.integers(1, 2048))
def test_documents_are_measured_in_batches_that_take_seconds_and_not_minutes(max_rows, max_tokens):
    shapes = grid(max_rows, max_tokens, DOCUMENTS)

    assert shapes == sorted(set(shapes), key=lambda shape: shape[0] * shape[1])
    assert all(rows * tokens <= 1024 for rows, tokens in shapes if rows > 1)
    assert max(tokens for _, tokens in shapes) == min(max_tokens, 1024)


def test_streams_share_what_documents_may_hold_in_memory():
    assert max(DOCUMENTS.budgets_for(1)) == 4 * 512
    assert max(DOCUMENTS.budgets_for(2)) == 2 * 512
    assert [DOCUMENTS.rows_for(streams, 32) for streams in (1, 2, 4)] == [8, 4, 4]
    assert DOCUMENTS.rows_for(1, max_rows=2) == 2
    assert TEXTS.rows_for(2, max_rows=32) == 32
    assert DOCUMENTS.budgets_for(1000) == [DOCUMENTS.budgets[0]]


def worth_of(fixed_ms: float, per_token_ms: float, streams: int) -> float:
    """Of a machine that answers a lone document, and a backlog, in so much time."""
    cost = CostModel(fixed_ms, per_token_ms, 0.0)
    samples = [Sample(r, t, cost.predict_ms(r, t)) for r, t in grid(8, 1024, DOCUMENTS)]
    choice = choose(samples, streams, 8, 1024, max_hold_s=0.0, traffic=DOCUMENTS)
    return DOCUMENTS.worth(choice.cost, choice.tokens_per_s, 1024)


def test_few_documents_count_as_much_as_many():
    """Sixteen threads as four streams give a third more in a backlog, and take thrice as long
    for one document; then one stream is worth more.
    """
    assert worth_of(300, 1.0, streams=1) > worth_of(900, 3.0, streams=4)
    assert worth_of(100, 1.0, streams=1) < worth_of(100, 1.3, streams=2)


def test_short_texts_are_compared_by_their_backlog_alone():
    assert TEXTS.worth(CostModel(1.0, 1.0, 0.0), 500.0, 256) == 500.0
