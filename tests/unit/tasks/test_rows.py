import numpy as np
import pytest

from app.core.errors import InputTooLong, InvalidRequest, InvariantBroken
from app.tasks.rows import cut, single_row, single_vector
from tests.unit.tasks.tokens import END, START, MarkedWords

KEEP = {"truncate": False}
CUT = {"truncate": True}


def test_cut_keeps_the_start_and_the_end_mark():
    assert cut([START, 11, 12, 13, END], 4) == [START, 11, 12, END]


def test_a_row_that_fits_exactly_is_left_alone():
    assert cut([START, 11, END], 3) == [START, 11, END]


def test_an_input_that_fits_is_not_called_truncated():
    prepared = single_row("a b", CUT, MarkedWords(4), "embedder")

    assert prepared.rows == ([START, 11, 11, END],)
    assert prepared.state.metadata() == {}


def test_a_longer_input_is_refused_with_both_counts_and_the_remedy():
    with pytest.raises(InputTooLong) as refused:
        single_row("a b c", KEEP, MarkedWords(4), "embedder")

    assert str(refused.value) == (
        "text has 5 tokens, embedder takes at most 4; "
        "shorten it or set parameters.truncate to true"
    )


def test_a_longer_input_is_cut_when_the_caller_allows_it():
    prepared = single_row("a bb c", CUT, MarkedWords(4), "embedder")

    assert prepared.rows == ([START, 11, 12, END],)
    assert prepared.input_tokens == 4
    assert prepared.state.metadata() == {"truncated": True}


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_a_text_that_says_nothing_is_refused_by_name(text):
    with pytest.raises(InvalidRequest, match="^text "):
        single_row(text, KEEP, MarkedWords(), "embedder")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_json_cannot_hold_do_not_leave(bad):
    with pytest.raises(InvariantBroken):
        single_vector(list(np.array([[0.5, bad]], np.float32)))
