"""The rules about the next token, and finding the best among many."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.inference import Decoding
from app.runtimes.next_tokens import NextTokens, apply_rules, sample


def following(logits, block=4):
    logits = np.array(logits, np.float32)
    total = np.log(np.exp(logits).sum(axis=1))
    return NextTokens(logits, logits.reshape(len(logits), -1, block).max(axis=-1), total)


@given(seed=st.integers(0, 1000), count=st.integers(1, 30), banned=st.sets(st.integers(0, 31)))
def test_the_best_are_found_in_the_best_blocks_whatever_was_banned(seed, count, banned):
    logits = np.random.default_rng(seed).normal(size=(2, 32)).astype(np.float32)
    tokens = following(logits)
    if banned:
        tokens.change(1, sorted(banned), -np.inf)
        logits[1, sorted(banned)] = -np.inf

    ids, found = tokens.top(count)

    np.testing.assert_array_equal(np.sort(found), np.sort(logits)[:, -count:])
    np.testing.assert_array_equal(np.take_along_axis(logits, ids, 1), found)


def banned(text, **rules):
    tokens = following(np.zeros((1, 8)))
    apply_rules(tokens, [text], Decoding(max_tokens=9, **rules), ends=[1])
    return np.flatnonzero(np.isneginf(tokens.logits[0])).tolist()


@pytest.mark.parametrize(
    ("text", "size", "expected"),
    [
        ([0, 4, 5, 4], 2, [5]),
        ([0, 4, 5, 6, 4, 5], 3, [6]),
        ([4, 5, 4, 6, 4], 2, [5, 6]),
        ([4, 5], 3, []),
        ([4, 5, 4], 1, [4, 5]),
    ],
)
def test_what_would_repeat_an_ngram_is_banned(text, size, expected):
    assert banned(text, no_repeat_ngram=size) == expected


def test_the_end_is_banned_until_the_least_length_start_not_counted():
    assert banned([0, 4], min_tokens=2) == [1]
    assert banned([0, 4, 5], min_tokens=2) == []


def test_the_penalty_pushes_what_was_said_down_on_either_side_of_zero():
    tokens = following([[1.0, -1.0, 3.0, 0.5]])
    apply_rules(tokens, [[0, 1]], Decoding(max_tokens=9, repetition_penalty=2.0), ends=[3])

    np.testing.assert_allclose(tokens.logits, [[0.5, -2.0, 3.0, 0.5]])


def test_with_beams_the_penalty_is_on_the_log_probability():
    tokens = following([[1.0, -1.0, 3.0, 0.5]])
    before = tokens.logits - tokens.log_total[0]
    apply_rules(tokens, [[0]], Decoding(max_tokens=9, repetition_penalty=2.0, beams=2), ends=[3])

    after = tokens.logits - tokens.log_total[0]
    np.testing.assert_allclose(after, before * [[2, 1, 1, 1]], rtol=1e-6)


def drawn(**settings):
    random = np.random.default_rng(0)
    logits = np.log(np.array([0.1, 0.2, 0.3, 0.4], np.float32))
    decoding = Decoding(max_tokens=1, **{"temperature": 1.0, **settings})
    counts = np.bincount([sample(logits, decoding, random) for _ in range(2000)], minlength=4)
    return counts / 2000


def test_sampling_follows_the_probabilities():
    np.testing.assert_allclose(drawn(), [0.1, 0.2, 0.3, 0.4], atol=0.05)


def test_a_low_temperature_prefers_the_likeliest():
    np.testing.assert_allclose(drawn(temperature=0.05), [0, 0, 0, 1], atol=0.02)


def test_top_k_keeps_the_likeliest():
    np.testing.assert_allclose(drawn(top_k=2), [0, 0, 3 / 7, 4 / 7], atol=0.05)


@pytest.mark.parametrize(("mass", "expected"), [(0.65, [0, 0, 3 / 7, 4 / 7]), (0.01, [0, 0, 0, 1])])
def test_top_p_keeps_the_smallest_set_with_that_mass(mass, expected):
    np.testing.assert_allclose(drawn(top_p=mass), expected, atol=0.05)
