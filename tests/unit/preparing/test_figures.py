"""The arithmetic of the comparison, and which figures pass."""

import numpy as np
import pytest

from app.core.inference import Decoding
from app.preparing.figures import (
    BARS,
    compare_scores,
    compare_sequences,
    compare_tokens,
    compare_vectors,
    judged,
    same_rows,
)
from app.preparing.parity_settings import decoding_of


def floats(*rows):
    return np.array(rows, dtype=np.float32)


def test_equal_answers_are_perfect():
    logits = floats([1, 2, 3], [3, 1, 0])
    found = compare_scores(logits, logits, "softmax")
    assert found == pytest.approx(
        {"label_agreement": 1.0, "max_probability_difference": 0.0, "mean_cosine": 1.0}
    )


def test_a_flipped_label_counts_and_so_does_the_largest_change_of_a_probability():
    found = compare_scores(floats([0, 1], [5, 0]), floats([1, 0], [5, 0]), "softmax")
    assert found["label_agreement"] == 0.5
    assert found["max_probability_difference"] == pytest.approx(0.4621, abs=1e-4)


def test_a_single_logit_agrees_on_its_side_of_one_half_and_has_no_cosine():
    found = compare_scores(floats([-1], [1]), floats([1], [2]), "sigmoid")
    assert found["label_agreement"] == 0.5
    assert "mean_cosine" not in found


def test_vectors_are_compared_row_by_row():
    found = compare_vectors(floats([1, 0], [1, 0]), floats([2, 0], [0, 1]))
    assert found == pytest.approx({"mean_cosine": 0.5, "min_cosine": 0.0})


def test_numbers_that_are_not_finite_agree_with_nothing():
    found = compare_vectors(floats([np.nan, 1]), floats([1, 1]))
    assert found["min_cosine"] == 0.0


@pytest.mark.parametrize(
    ("ours", "theirs", "agreement"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], 1.0),
        ([1, 2, 9, 4], [1, 2, 3, 4], 0.5),
        ([1, 2], [1, 2, 3, 4], 0.5),
        ([], [], 1.0),
        ([], [1], 0.0),
    ],
    ids=["equal", "forked", "ended early", "both empty", "one empty"],
)
def test_tokens_agree_up_to_the_first_difference(ours, theirs, agreement):
    assert compare_tokens([ours], [theirs])["token_agreement"] == agreement


def test_beams_that_say_the_same_in_another_order_overlap():
    found = compare_sequences([[1, 2, 3, 3]], [[3, 3, 2, 1]])
    assert found == {"token_agreement": 0.0, "token_overlap": 1.0}


def test_texts_are_tokenised_alike_or_not():
    assert same_rows([[1], [2, 3]], [[1], [2]]) == 0.5


def test_what_fails_is_said_with_both_numbers():
    parity = judged(
        "scores",
        "int8",
        24,
        {
            "label_agreement": 0.9,
            "max_probability_difference": 0.3,
            "mean_cosine": 0.99,
            "tokenizer_agreement": 1.0,
        },
    )
    assert parity.failed == [
        "label agreement is 0.9000, less than 0.95",
        "max probability difference is 0.3000, more than 0.25",
    ]
    assert not parity.has_passed


def test_a_figure_that_is_not_a_number_fails():
    parity = judged("vectors", "int8", 1, {"mean_cosine": float("nan"), "min_cosine": 1.0})
    assert len(parity.failed) == 1


def test_every_kind_has_a_bar_for_what_it_can_be_prepared_as():
    assert {kind: set(bars) for kind, bars in BARS.items()} == {
        "scores": {"fp32", "int8"},
        "vectors": {"fp32", "int8"},
        "tokens": {"fp32", "int8", "int4"},
        "sequences": {"fp32", "int8"},
    }


def test_the_checkpoints_own_search_is_cut_short():
    generation = {
        "num_beams": 4,
        "length_penalty": 2.0,
        "no_repeat_ngram_size": 3,
        "min_length": 56,
        "max_length": 142,
        "early_stopping": True,
        "forced_bos_token_id": 0,
    }
    assert decoding_of(generation) == Decoding(
        max_tokens=40,
        min_tokens=20,
        beams=4,
        length_penalty=2.0,
        no_repeat_ngram=3,
        early_stopping=True,
        prefix=(0,),
    )


def test_a_checkpoint_without_a_search_of_its_own_is_greedy():
    assert decoding_of({}) == Decoding(max_tokens=40)
