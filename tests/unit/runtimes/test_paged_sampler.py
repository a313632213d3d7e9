"""Tokens are chosen as transformers defines it, from one row alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.inference import Sampling
from app.runtimes.openvino_paged_sampler import Chooser, Counts, draw, logprobs_of

VOCABULARY = 1000


def row(seed: int, spread: float = 3.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (random.standard_normal(VOCABULARY) * spread).astype(np.float32)


def chooser(sampling: Sampling, number: int = 0, prompt: tuple[int, ...] = (), **more) -> Chooser:
    return Chooser(sampling, number, prompt, [0], np.empty(VOCABULARY, np.float32), **more)


def plain_distribution(logits: np.ndarray, sampling: Sampling) -> np.ndarray:
    """As transformers' warpers say it, with everything sorted."""
    scores = logits.astype(np.float64) / sampling.temperature
    if sampling.top_k:
        kth = np.sort(scores)[-min(sampling.top_k, len(scores))]
        scores = np.where(scores < kth, -np.inf, scores)
    chances = np.exp(scores - scores.max())
    chances /= chances.sum()
    if sampling.top_p < 1:
        order = np.argsort(chances, kind="stable")
        dropped = order[np.cumsum(chances[order]) <= 1 - sampling.top_p]
        chances[dropped[dropped != order[-1]]] = 0
    if sampling.min_p:
        chances[chances < sampling.min_p * chances.max()] = 0
    kept: np.ndarray = chances / chances.sum()
    return kept


@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000),
    spread=st.sampled_from([0.05, 1.0, 3.0, 12.0]),
    temperature=st.sampled_from([0.2, 0.7, 1.0, 2.0]),
    top_p=st.sampled_from([1.0, 0.95, 0.5, 0.05]),
    top_k=st.sampled_from([None, 1, 7, 50, 5000]),
    min_p=st.sampled_from([0.0, 0.02, 0.5]),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_a_drawn_token_is_one_that_the_rules_leave(
    seed, spread, temperature, top_p, top_k, min_p, chance
):
    sampling = Sampling(9, temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p)
    logits = row(seed, spread)
    # A hair more than the rules keep: sums of float32 and float64 part at the very edge.
    wider = Sampling(
        9, temperature=temperature, top_p=min(1, top_p + 1e-5), top_k=top_k, min_p=min_p * 0.9999
    )

    assert plain_distribution(logits, wider)[draw(logits.copy(), sampling, chance)] > 0


@pytest.mark.parametrize(
    "rules",
    [{}, {"top_p": 0.8}, {"top_k": 20}, {"min_p": 0.05}, {"top_k": 30, "top_p": 0.7}],
    ids=str,
)
def test_tokens_come_as_often_as_they_are_likely(rules):
    sampling = Sampling(9, temperature=0.9, **rules)
    logits = row(3)
    chances = (np.arange(20_000) + 0.5) / 20_000

    drawn = np.bincount(
        [draw(logits.copy(), sampling, chance) for chance in chances], minlength=VOCABULARY
    )

    expected = plain_distribution(logits, sampling)
    assert np.abs(drawn / len(chances) - expected).max() < 2e-4


def test_the_same_seed_draws_the_same_and_continuations_draw_apart():
    sampling = Sampling(50, temperature=1.0, seed=7)
    rows = [row(n) for n in range(30)]
    one, again, other = chooser(sampling), chooser(sampling), chooser(sampling, number=1)

    drawn = [one.choose(logits) for logits in rows]

    assert drawn == [again.choose(logits) for logits in rows]
    assert drawn != [other.choose(logits) for logits in rows]


def test_repetition_is_penalised_in_prompt_and_text_and_the_logits_are_left_alone():
    logits = row(1, 0.1)
    logits[[5, 6, 7]] = [4.0, 3.9, 3.0]
    before = logits.copy()
    chosen = chooser(Sampling(9, repetition_penalty=1.5), prompt=(5,))

    assert [chosen.choose(logits) for _ in range(3)] == [6, 7, 5]
    assert (logits == before).all()


def test_frequency_counts_each_time_and_presence_once():
    logits = row(1, 0.1)
    logits[[5, 6]] = [6.0, 3.0]

    by_frequency = chooser(Sampling(9, frequency_penalty=1.0), prompt=(5, 5, 5, 5))
    by_presence = chooser(Sampling(9, presence_penalty=2.0), prompt=(5, 5, 5, 5))

    assert [by_frequency.choose(logits) for _ in range(6)] == [5, 5, 5, 5, 6, 5]
    assert [by_presence.choose(logits) for _ in range(6)] == [5] * 6


def test_a_biased_token_wins_or_never_comes_and_an_end_comes_late_enough():
    logits = row(1, 0.1)
    logits[[0, 5]] = [9.0, 4.0]

    assert chooser(Sampling(9, logit_bias=((8, 100.0),))).choose(logits) == 8
    assert chooser(Sampling(9, logit_bias=((0, -100.0),))).choose(logits) == 5
    late = chooser(Sampling(9, min_new_tokens=2))
    assert [late.choose(logits) for _ in range(3)] == [5, 5, 0]


def test_a_grammar_has_the_last_word():
    class OnlyNine:
        consumed: list[int] = []

        def allowed(self):
            return np.arange(VOCABULARY) == 9

        def consume(self, token):
            self.consumed.append(token)

    mask = OnlyNine()
    sampling = Sampling(9, temperature=1.0, logit_bias=((8, 100.0),), min_new_tokens=3)

    assert chooser(sampling, mask=mask).choose(row(2)) == 9
    assert mask.consumed == [9]


@given(seed=st.integers(0, 1000), top=st.integers(0, 20))
def test_logprobs_are_of_the_models_own_distribution(seed, top):
    logits = row(seed)
    expected = logits.astype(np.float64) - np.log(np.exp(logits.astype(np.float64)).sum())

    said = logprobs_of(logits, 11, top)

    assert said.logprob == pytest.approx(expected[11], abs=1e-5)
    assert [token for token, _ in said.top] == np.argsort(-expected, kind="stable")[:top].tolist()
    assert [value for _, value in said.top] == pytest.approx(
        sorted(expected, reverse=True)[:top], abs=1e-5
    )


@given(prompt=st.lists(st.integers(0, 9)), more=st.lists(st.integers(0, 2000), max_size=600))
def test_counts_are_what_was_counted(prompt, more):
    counts = Counts(prompt)
    for token in more:
        counts.add(token)

    told = dict(zip(counts.ids.tolist(), counts.counts.tolist(), strict=True))
    every = prompt + more
    assert told == {token: every.count(token) for token in set(every)}
