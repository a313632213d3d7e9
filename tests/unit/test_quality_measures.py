import numpy as np
import pytest

from scripts.logistic import fit, softmax
from scripts.quality import brier, calibration_error, macro_f1, retrieval, rouge


def test_rouge_counts_words_pairs_and_order():
    one, two, longest = rouge("The cat sat down.", "the cat sat up")

    assert one == pytest.approx(3 / 4)
    assert two == pytest.approx(2 / 3)
    assert longest == pytest.approx(3 / 4)


def test_rouge_l_needs_the_order_that_rouge_1_ignores():
    one, _, longest = rouge("a b c", "c b a")

    assert one == pytest.approx(1.0)
    assert longest == pytest.approx(1 / 3)


def test_rouge_of_nothing_is_zero():
    assert rouge("", "a b") == (0.0, 0.0, 0.0)


def test_retrieval_ranks_the_own_document():
    queries = np.array([[1.0, 0.0], [1.0, 0.0]])
    documents = np.array([[1.0, 0.0], [0.0, 1.0]])

    assert retrieval(queries, documents) == (0.5, 0.75)


def test_confidence_that_is_always_right_is_off_by_what_it_lacks():
    chances = np.tile([0.8, 0.2], (10, 1))

    assert calibration_error(chances, np.zeros(10, int)) == pytest.approx(0.2)
    assert brier(chances, np.zeros(10, int)) == pytest.approx(0.08)


def test_macro_f1_weighs_a_rare_label_like_a_common_one():
    assert macro_f1(np.array([0, 0, 0, 0]), np.array([0, 0, 0, 1]), 2) == pytest.approx(3 / 7)


def test_the_fit_is_where_the_gradient_vanishes():
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(300, 4))
    wanted = softmax(vectors @ draw.normal(size=(4, 3)))
    weights = draw.uniform(0.5, 2.0, 300)

    theta, bias = fit(vectors, wanted, weights, penalty=0.5)

    error = weights[:, None] * (softmax(vectors @ theta.T + bias) - wanted)
    assert np.abs(error.T @ vectors + 0.5 * theta).max() < 1e-2
    assert np.abs(error.sum(axis=0)).max() < 1e-1
