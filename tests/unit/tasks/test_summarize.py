import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import InvalidRequest
from app.core.types import Usage
from app.tasks.summarize import MAX_ROWS, Limits, Summarize, choose, evenly, similarities
from tests.unit.tasks.tokens import END, START, MarkedWords

FREE = {"max_length": 142, "min_length": 0}
# Two sentences about one thing, one in between, one about something else.
TEXT = "Cats like fish. Dogs bark loudly. Cats eat fish. Rain falls now."
VECTORS = np.array([[1, 0, 0], [0.6, 0.8, 0], [0.9, 0.1, 0], [0, 0, 1]], np.float32)


def summarize(text=TEXT, vectors=VECTORS, *, share=0.5, **parameters):
    task, parameters = Summarize(share=share), FREE | parameters
    return task.finish(task.prepare(text, parameters, MarkedWords()), list(vectors), parameters)


def test_every_sentence_is_a_row():
    prepared = Summarize().prepare("One two. Three.", FREE, MarkedWords())

    assert prepared.rows == ([START, 13, 14, END], [START, 16, END])
    assert prepared.input_tokens == 5


def test_the_summary_has_the_central_sentences_in_the_order_of_the_text():
    answer = summarize()

    assert answer.value == "Dogs bark loudly. Cats eat fish."
    assert answer.metadata == {"sentences": 2, "source_sentences": 4}
    assert answer.usage == Usage(input_tokens=14, output_tokens=6)


def test_a_sentence_is_not_said_twice_in_other_words():
    same = np.array([[1, 0], [1, 0], [1, 0], [0.5, 0.5]], np.float32)

    answer = summarize("Aa bb. Aa bb. Aa bb. Cc dd.", same)

    assert answer.value == "Aa bb. Cc dd."


def test_max_length_counts_tokens_of_the_summary():
    assert summarize(max_length=4).usage.output_tokens <= 4


def test_one_sentence_is_returned_though_none_fits():
    assert summarize(max_length=1).metadata["sentences"] == 1


def test_min_length_asks_for_more_than_half_of_the_text():
    assert summarize(min_length=7).usage.output_tokens == 9


def test_min_length_beyond_the_text_returns_all_of_it():
    assert summarize(min_length=100).value == TEXT


def test_more_is_taken_where_the_version_allows_a_greater_share():
    assert summarize(share=1.0).value == "Cats like fish. Dogs bark loudly. Cats eat fish."


def test_a_sentence_beside_the_point_does_not_fill_up_what_is_left():
    assert "Rain" not in summarize(share=1.0, max_length=142).value


def test_a_text_of_one_sentence_is_its_own_summary_and_needs_no_row():
    task = Summarize()
    prepared = task.prepare("Only this one.", FREE, MarkedWords())

    answer = task.finish(prepared, [], FREE)

    assert prepared.rows == ()
    assert answer.value == "Only this one."
    assert answer.usage == Usage(5, 3)


def test_a_sentence_longer_than_the_model_is_cut_for_its_vector_only():
    task = Summarize()
    prepared = task.prepare("One two three four. Five.", FREE, MarkedWords(max_tokens=4))

    answer = task.finish(prepared, list(np.array([[1, 0], [1, 0]], np.float32)), FREE)

    assert prepared.rows[0] == [START, 13, 13, END]
    assert answer.value == "One two three four."


@pytest.mark.parametrize("text", ["", "  \n "])
def test_a_text_that_says_nothing_is_refused_by_name(text):
    with pytest.raises(InvalidRequest, match="^text "):
        Summarize().prepare(text, FREE, MarkedWords())


def test_bounds_that_contradict_each_other_are_refused_by_name():
    with pytest.raises(InvalidRequest, match=r"min_length \(9\).*max_length \(3\)"):
        Summarize().prepare(TEXT, {"min_length": 9, "max_length": 3}, MarkedWords())


def test_a_share_outside_its_bounds_does_not_start():
    with pytest.raises(ValueError, match="share"):
        Summarize(share=0)


def test_a_long_text_is_sampled_from_the_first_to_the_last_sentence_and_says_so():
    text = " ".join(f"Sentence number {n} here." for n in range(2000))
    task = Summarize()
    prepared = task.prepare(text, FREE, MarkedWords())
    vectors = np.random.default_rng(0).normal(size=(MAX_ROWS, 8)).astype(np.float32)

    answer = task.finish(prepared, list(vectors), FREE)

    assert len(prepared.rows) == MAX_ROWS
    assert prepared.input_tokens == 8002
    assert prepared.state.texts[0] == "Sentence number 0 here."
    assert prepared.state.texts[-1] == "Sentence number 1999 here."
    assert answer.metadata["source_sentences"] == 2000
    assert answer.metadata["compared_sentences"] == MAX_ROWS
    assert 100 < answer.usage.output_tokens <= 142


@pytest.mark.parametrize(
    "vectors",
    [np.zeros((4, 3)), np.full((4, 3), np.nan), np.ones((4, 3)), np.full((4, 3), np.inf)],
    ids=["zero", "not a number", "identical", "infinite"],
)
def test_degenerate_vectors_still_give_a_summary(vectors):
    answer = summarize(vectors=vectors.astype(np.float32))

    assert answer.metadata["sentences"] >= 1
    assert answer.usage.output_tokens <= 6


def test_evenly_takes_both_ends_and_never_the_same_twice():
    assert evenly(3, 5) == [0, 1, 2]
    assert evenly(9, 3) == [0, 4, 8]
    assert len(set(evenly(1000, 512))) == 512


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=30),
    st.integers(0, 100),
    st.integers(1, 200),
    st.integers(0, 2**32),
)
def test_bounds_hold_whatever_the_sentences(tokens, least, most, seed):
    vectors = np.random.default_rng(seed).normal(size=(len(tokens), 4)).astype(np.float32)
    least = min(least, most)

    chosen = choose(similarities(vectors), tokens, Limits(least, sum(tokens) / 2, most))

    total = sum(tokens[index] for index in chosen)
    rest = [size for index, size in enumerate(tokens) if index not in chosen]
    assert len(set(chosen)) == len(chosen) >= 1
    assert total <= most or len(chosen) == 1
    assert total >= least or total > most or all(total + size > most for size in rest)
