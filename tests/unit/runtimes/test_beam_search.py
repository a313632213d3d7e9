"""Beam search against transformers' own arithmetic over whole arrays, and each rule by itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.inference import Decoding
from app.runtimes.beam_search import Beams, Candidate, Marks, start
from app.runtimes.next_tokens import NextTokens

EOS = 1
VOCABULARY, BLOCK = 12, 4


def following(logits):
    """As a model would tell it."""
    logits = np.array(logits, np.float32)
    total = np.log(np.exp(logits.astype(np.float64)).sum(axis=1)).astype(np.float32)
    best = logits.reshape(len(logits), -1, BLOCK).max(axis=-1)
    return NextTokens(logits, best, total)


def logits_of(text, seed):
    """A language of its own: any text has its fixed logits."""
    return np.random.default_rng([seed, *text]).normal(size=VOCABULARY).astype(np.float32) * 2


def write(decoding, marks, seed):
    draft = start(decoding, marks)
    while not draft.is_done:
        before = draft.texts
        parents = draft.step(following([logits_of(text, seed) for text in before]))
        assert len(parents) in (0, len(draft.texts))
    return draft.result()


def transformers_beams(decoding, marks, seed):
    """One document of transformers' `_beam_search`, with its -1e9 for what cannot be."""
    beams, kept = decoding.beams, 2 * decoding.beams
    running = [[marks.start]] * beams
    scores = np.array([0.0] + [-1e9] * (beams - 1))
    done: list[list[int]] = [[]] * beams
    done_scores = np.full(beams, -1e9)
    is_finished, can_improve = np.zeros(beams, bool), True
    while True:
        log_probs = np.stack([_ruled(text, decoding, marks, seed) for text in running])
        flat = (log_probs + scores[:, None]).ravel()
        top = np.argsort(-flat, kind="stable")[:kept]
        grown = [[*running[at // VOCABULARY], int(at % VOCABULARY)] for at in top]
        made = len(grown[0]) - 1
        hits = np.array([text[-1] == EOS or made == decoding.max_tokens for text in grown])
        going = flat[top] + hits * -1e9
        worth = flat[top] / made**decoding.length_penalty
        worth += (is_finished.all() and decoding.early_stopping is True) * -1e9
        worth += (not can_improve) * -1e9
        just_finished = hits & (np.arange(kept) < beams)
        worth += ~just_finished * -1e9
        merged = np.concatenate([done_scores, worth])
        chosen = np.argsort(-merged, kind="stable")[:beams]
        done = [(done + grown)[at] for at in chosen]
        is_finished = np.concatenate([is_finished, just_finished])[chosen]
        done_scores = merged[chosen]
        order = np.argsort(-going, kind="stable")[:beams]
        running, scores = [grown[at] for at in order], going[order]
        is_patient = decoding.early_stopping == "never" and decoding.length_penalty > 0
        length = decoding.max_tokens if is_patient else made
        worst = np.where(is_finished, done_scores.min(), -1e9)
        can_improve = can_improve and (scores[0] / length**decoding.length_penalty > worst).any()
        is_open = not (is_finished.all() and decoding.early_stopping is True)
        if not (can_improve and is_open and not hits.all()):
            text = done[0][1:]
            first = len(decoding.prefix)
            return tuple(text[first:-1] if text[-1] == EOS else text[first:])


def _ruled(text, decoding, marks, seed):
    logits = logits_of(text, seed).astype(np.float64)
    scores = logits - np.log(np.exp(logits).sum())
    if decoding.repetition_penalty != 1:
        for token in set(text):
            scores[token] *= decoding.repetition_penalty
    size, made = decoding.no_repeat_ngram, len(text) - 1
    for at in range(len(text) - size + 1 if size else 0):
        if text[at : at + size - 1] == text[len(text) - size + 1 :]:
            scores[text[at + size - 1]] = -np.inf
    if made < decoding.min_tokens:
        scores[EOS] = -np.inf
    forced = None
    if made < len(decoding.prefix):
        forced = decoding.prefix[made]
    if marks.forced_eos is not None and made == decoding.max_tokens - 1:
        forced = marks.forced_eos
    if forced is not None:
        scores[:] = -np.inf
        scores[forced] = 0
    return scores


@given(
    seed=st.integers(0, 10_000),
    beams=st.integers(2, 4),
    longest=st.integers(2, 9),
    least=st.integers(0, 4),
    penalty=st.sampled_from([-1.0, 0.0, 0.7, 1.0, 2.0]),
    stopping=st.sampled_from([True, False, "never"]),
    ngram=st.sampled_from([0, 2, 3]),
    repetition=st.sampled_from([1.0, 1.5, 0.8]),
    forced_eos=st.sampled_from([None, EOS]),
    prefix=st.sampled_from([(), (5,)]),
)
def test_beams_write_what_transformers_would(
    seed, beams, longest, least, penalty, stopping, ngram, repetition, forced_eos, prefix
):
    decoding = Decoding(
        max_tokens=longest,
        min_tokens=least,
        beams=beams,
        length_penalty=penalty,
        no_repeat_ngram=ngram,
        repetition_penalty=repetition,
        early_stopping=stopping,
        prefix=prefix,
    )
    marks = Marks(start=2, eos=EOS, forced_eos=forced_eos)

    made = write(decoding, marks, seed)

    assert made.token_ids == transformers_beams(decoding, marks, seed)


MARKS = Marks(start=0, eos=EOS)


def test_one_row_is_read_until_the_first_free_choice():
    draft = start(Decoding(max_tokens=5, beams=3, prefix=(4,)), MARKS)

    assert draft.step(following([np.zeros(VOCABULARY)])) == [0]
    assert draft.texts == [[0, 4]]
    assert draft.step(following([np.arange(VOCABULARY)])) == [0, 0, 0]
    assert draft.texts == [[0, 4, 11], [0, 4, 10], [0, 4, 9]]


def test_a_text_outside_the_best_beams_does_not_count_as_finished():
    draft = Beams(Decoding(max_tokens=9, beams=2), MARKS)
    draft.advance([Candidate(-0.1, 0, 5), Candidate(-0.2, 0, 6), Candidate(-0.3, 0, EOS)])

    parents = draft.advance([Candidate(-1.0, 1, 7), Candidate(-1.1, 0, EOS), Candidate(-1.2, 0, 8)])

    assert parents == [1, 0]
    assert draft.texts == [[0, 6, 7], [0, 5, 8]]
    assert draft.result().token_ids == (5,)


def test_greedy_ends_at_the_end_token_and_says_so():
    draft = start(Decoding(max_tokens=5), MARKS)
    for token in (7, EOS):
        draft.step(following([np.eye(VOCABULARY)[token]]))

    assert draft.is_done
    assert (draft.result().token_ids, draft.result().finish_reason) == ((7,), "stop")


@pytest.mark.parametrize("beams", [1, 2])
def test_a_text_that_reaches_its_longest_is_cut(beams):
    made = write(Decoding(max_tokens=3, min_tokens=9, beams=beams), MARKS, seed=1)

    assert len(made.token_ids) == 3
    assert made.finish_reason == "length"


def test_a_forced_end_is_a_cut_and_no_token_of_the_text():
    marks = Marks(start=0, eos=EOS, forced_eos=EOS)
    made = write(Decoding(max_tokens=3, min_tokens=9), marks, seed=1)

    assert len(made.token_ids) == 2
    assert made.finish_reason == "length"


def test_with_single_tokens_for_ngrams_no_token_comes_twice():
    """transformers bans what was written, not everything."""
    made = write(Decoding(max_tokens=6, min_tokens=6, beams=2, no_repeat_ngram=1), MARKS, seed=1)

    assert len(made.token_ids) == len(set(made.token_ids)) > 0
