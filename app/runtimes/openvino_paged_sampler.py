"""One next token from one row of logits, as a request wants it chosen. No library but numpy.

A row is chosen from by itself, with a stream of chance of its own, one number per token: what a
text becomes depends on its request alone, not on who shares its steps. The rules and their order
are transformers', and OpenAI's where transformers has none: penalties, bias, grammar, temperature,
top_k, top_p, min_p. Nothing sorts a whole vocabulary: the greatest part of it is too unlikely to
be drawn, and is left out by a comparison.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from app.core.inference import Sampling, TokenLogprob
from app.runtimes.next_tokens import Floats

Ids = NDArray[np.int64]

WORD = 2**64
FLOORS = (1e-3, 1e-6)  # of the likeliest; the lower, the more tokens are looked at
BLOCK = 256
STEP_BITS = 18  # of 32: the rest tells 32 steps from one power of two to the next


class Mask(Protocol):
    """What a grammar says about the next token."""

    def allowed(self) -> NDArray[np.bool_]:
        """Per token of the vocabulary."""

    def consume(self, token: int) -> None:
        """The token was chosen."""


class Counts:
    """How often each token came, as arrays that grow by one token at a time."""

    def __init__(self, tokens: Sequence[int] = ()) -> None:
        ids, counts = np.unique(np.asarray(tokens, np.int64), return_counts=True)
        self._place = {int(token): at for at, token in enumerate(ids)}
        self._size = len(ids)
        self._ids = np.concatenate([ids, np.zeros(BLOCK, np.int64)])
        self._counts = np.concatenate([counts, np.zeros(BLOCK)]).astype(np.float32)

    @property
    def ids(self) -> Ids:
        return self._ids[: self._size]

    @property
    def counts(self) -> Floats:
        return self._counts[: self._size]

    def add(self, token: int) -> None:
        place = self._place.setdefault(token, self._size)
        if place == self._size:
            if place == len(self._ids):
                self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
                self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
            self._ids[place] = token
            self._size += 1
        self._counts[place] += 1


class Chooser:
    """Chooses the tokens of one continuation, one after another.

    number: which of the request's continuations; ends: tokens that end a text; scratch: a row's
    room to compute in, which choosers may share.
    """

    def __init__(
        self,
        sampling: Sampling,
        number: int,
        prompt: Sequence[int],
        ends: Sequence[int],
        scratch: Floats,
        mask: Mask | None = None,
    ) -> None:
        self._sampling = sampling
        self._ends = np.asarray(ends, np.int64)
        self._scratch = scratch
        self._mask = mask
        self._made = 0
        self._seen = Counts(prompt) if sampling.repetition_penalty != 1.0 else None
        written = sampling.frequency_penalty != 0 or sampling.presence_penalty != 0
        self._written = Counts() if written else None
        bias = sampling.logit_bias
        self._biased = np.array([token for token, _ in bias], np.int64)
        self._bias = np.array([added for _, added in bias], np.float32)
        key = np.array([sampling.seed % WORD, number], np.uint64)
        self._random = np.random.Generator(np.random.Philox(key=key))
        self._has_rules = bool(
            self._seen or self._written or bias or mask or sampling.min_new_tokens
        )

    def choose(self, logits: Floats) -> int:
        """logits: of one row, left as they are."""
        sampling = self._sampling
        if not self._has_rules and sampling.temperature == 0:
            return self._book(int(logits.argmax()))
        scores = self._scratch
        np.copyto(scores, logits)
        if self._has_rules:
            self._apply_rules(scores)
        if sampling.temperature == 0:
            return self._book(int(scores.argmax()))
        return self._book(draw(scores, sampling, self._random.random()))

    def _book(self, token: int) -> int:
        self._made += 1
        for counts in (self._seen, self._written):
            if counts is not None:
                counts.add(token)
        if self._mask is not None:
            self._mask.consume(token)
        return token

    def _apply_rules(self, scores: Floats) -> None:
        sampling = self._sampling
        if self._seen is not None:
            some = scores[self._seen.ids]
            penalty = np.float32(sampling.repetition_penalty)
            scores[self._seen.ids] = np.where(some < 0, some * penalty, some / penalty)
        if self._written is not None:
            off = np.float32(sampling.frequency_penalty) * self._written.counts
            scores[self._written.ids] -= off + np.float32(sampling.presence_penalty)
        if self._made < sampling.min_new_tokens and self._mask is None:
            scores[self._ends] = -np.inf
        if len(self._bias):
            scores[self._biased] += self._bias
        if self._mask is not None:
            scores[~self._mask.allowed()] = -np.inf


def draw(scores: Floats, sampling: Sampling, chance: float) -> int:
    """scores are computed in; chance: from 0 to below 1."""
    scores -= scores.max()
    scores *= np.float32(1 / sampling.temperature)
    weights = np.exp(scores, out=scores)
    if sampling.top_p >= 1 and not sampling.top_k and sampling.min_p <= 0:
        return _draw_from_all(weights, chance)
    ids = _likely(weights, sampling)
    some = weights[ids]
    least = np.float32(sampling.min_p)
    mass = float(weights.sum())
    if sampling.top_k and sampling.top_k < len(some):
        least = max(least, np.partition(some, -sampling.top_k)[-sampling.top_k])
    if sampling.top_k:
        ids, some = ids[some >= least], some[some >= least]
        mass = float(some.sum())
    if sampling.top_p < 1:
        least = max(least, _least_of_mass(some, sampling.top_p * mass))
    is_kept = some >= least  # those as likely as the last one stay with it
    return int(ids[is_kept][_draw(some[is_kept], chance)])


def logprobs_of(logits: Floats, token: int, top: int) -> TokenLogprob:
    """Of the model's own distribution."""
    most = logits.max()
    log_total = float(most) + float(np.log(np.exp(logits - most).sum(dtype=np.float64)))
    best: list[tuple[int, float]] = []
    if top:
        of_blocks = np.maximum.reduceat(logits, np.arange(0, len(logits), BLOCK))
        # As many tokens as are wanted are no less likely than the best of that many blocks.
        least = -np.inf if top > len(of_blocks) else np.partition(of_blocks, -top)[-top]
        ids = np.flatnonzero(logits >= least)
        ids = ids[np.lexsort((ids, -logits[ids]))][:top]
        best = [(int(at), float(logits[at]) - log_total) for at in ids]
    return TokenLogprob(float(logits[token]) - log_total, tuple(best))


def _likely(weights: Floats, sampling: Sampling) -> Ids:
    """At least the tokens that top_k, top_p and min_p keep. weights: the largest is 1."""
    total = float(weights.sum()) if sampling.top_p < 1 else np.inf
    for floor in FLOORS:
        ids = np.flatnonzero(weights >= np.float32(max(floor, sampling.min_p)))
        if sampling.min_p >= floor or (sampling.top_k and len(ids) >= sampling.top_k):
            return ids
        if float(weights[ids].sum()) > sampling.top_p * total:
            return ids
    return np.arange(len(weights))


def _least_of_mass(weights: Floats, mass: float) -> np.float32:
    """The least of the largest weights that together have `mass`. By the first bits of the numbers,
    their size in coarse steps; within the step that counts, in order."""
    steps = (weights.view(np.uint32) >> STEP_BITS).astype(np.int64)
    lowest = steps.min()
    totals = np.cumsum(np.bincount(steps - lowest, weights)[::-1])
    at = min(int(np.searchsorted(totals, mass)), len(totals) - 1)
    before = totals[at - 1] if at else 0.0
    inside = np.sort(weights[steps == lowest + len(totals) - 1 - at])[::-1]
    reached = int(np.searchsorted(before + np.cumsum(inside, dtype=np.float64), mass))
    least: np.float32 = inside[min(reached, len(inside) - 1)]
    return least


def _draw(weights: Floats, chance: float) -> int:
    totals = np.cumsum(weights, dtype=np.float64)
    at = int(np.searchsorted(totals, chance * totals[-1], side="right"))
    return min(at, len(weights) - 1)


def _draw_from_all(weights: Floats, chance: float) -> int:
    """By blocks first, so that one block alone is added up token by token."""
    starts = np.arange(0, len(weights), BLOCK)
    totals = np.cumsum(np.add.reduceat(weights, starts), dtype=np.float64)
    wanted = chance * totals[-1]
    block = min(int(np.searchsorted(totals, wanted, side="right")), len(starts) - 1)
    inside = weights[starts[block] : starts[block] + BLOCK].astype(np.float64)
    before = totals[block - 1] if block else 0.0
    at = int(np.searchsorted(np.cumsum(inside), wanted - before, side="right"))
    if at >= len(inside):  # sums of blocks and of tokens differ in their last digits
        at = int(np.flatnonzero(inside)[-1])
    return int(starts[block]) + at
