"""What a model says about the next token of some rows, and the rules that change what it says.

A vocabulary is large and a choice needs a handful of it, so the model also tells the largest
logit of each block of the vocabulary: the best tokens are looked for in the best blocks alone.
Nothing here knows an engine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.core.inference import Decoding

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class NextTokens:
    """logits: [rows, vocabulary], ours to change. best: [rows, blocks], the largest of each block
    of equal size. log_total: [rows], the logarithm of the sum of all exponentials.
    """

    logits: Floats
    best: Floats
    log_total: Floats

    def rows(self, start: int, stop: int) -> "NextTokens":
        """The same arrays, some rows of them."""
        part = slice(start, stop)
        return NextTokens(self.logits[part], self.best[part], self.log_total[part])

    def change(self, row: int, token_ids: Sequence[int], logits: Any) -> None:
        """Give some tokens of a row other logits; probabilities of all others stay."""
        ids = np.asarray(token_ids)
        self.logits[row, ids] = logits
        blocks = np.unique(ids // self._block)
        self.best[row, blocks] = self._by_block[row, blocks].max(axis=-1)

    def top(self, count: int) -> tuple[NDArray[np.intp], Floats]:
        """Token ids and logits of each row's `count` largest, in no order."""
        blocks = _largest(self.best, count)
        logits = np.take_along_axis(self._by_block, blocks[..., np.newaxis], axis=1)
        ids = blocks[..., np.newaxis] * self._block + np.arange(self._block)
        rows = len(ids)
        chosen = _largest(logits.reshape(rows, -1), count)
        return (
            np.take_along_axis(ids.reshape(rows, -1), chosen, axis=1),
            np.take_along_axis(logits.reshape(rows, -1), chosen, axis=1),
        )

    @property
    def _block(self) -> int:
        return int(self.logits.shape[1] // self.best.shape[1])

    @property
    def _by_block(self) -> Floats:
        return self.logits.reshape(*self.best.shape, self._block)


def apply_rules(
    following: NextTokens,
    texts: Sequence[Sequence[int]],
    decoding: Decoding,
    ends: Sequence[int],
) -> None:
    """Repetition penalty, repeated n-grams and least length, in transformers' order.

    texts: what each row has written, its start token included. With several beams the penalty
    is on the logarithm of the probability, as in transformers; with one on the logit.
    """
    penalty, ngram = decoding.repetition_penalty, decoding.no_repeat_ngram
    for row, text in enumerate(texts):
        if penalty != 1.0:
            _penalise(following, row, text, penalty, is_log=decoding.beams > 1)
        if ngram > 0:
            banned = _repeating(text, ngram)
            if banned:
                following.change(row, banned, -np.inf)
        if len(text) - 1 < decoding.min_tokens:
            following.change(row, ends, -np.inf)


def sample(logits: Floats, decoding: Decoding, random: np.random.Generator) -> int:
    """One token by chance: temperature, then the `top_k` likeliest, then `top_p` of the mass."""
    scores = logits.astype(np.float64) / decoding.temperature
    if decoding.top_k:
        kept = min(decoding.top_k, scores.size)
        scores[scores < np.partition(scores, -kept)[-kept]] = -np.inf
    chances = np.exp(scores - scores.max())
    chances /= chances.sum()
    if decoding.top_p < 1.0:
        order = np.argsort(chances, kind="stable")
        dropped = order[np.cumsum(chances[order]) <= 1 - decoding.top_p]
        chances[dropped[dropped != order[-1]]] = 0
        chances /= chances.sum()
    return int(random.choice(chances.size, p=chances))


def _penalise(
    following: NextTokens, row: int, text: Sequence[int], penalty: float, is_log: bool
) -> None:
    ids = sorted(set(text))
    zero = following.log_total[row] if is_log else np.float32(0)
    scores = following.logits[row, ids] - zero
    changed = np.where(scores < 0, scores * penalty, scores / penalty)
    following.change(row, ids, changed + zero)


def _repeating(text: Sequence[int], size: int) -> Sequence[int]:
    """Tokens that would complete an n-gram that `text` has already."""
    if len(text) < size:
        return []
    ending = list(text[len(text) - size + 1 :])
    starts = range(len(text) - size + 1)
    return [text[at + size - 1] for at in starts if text[at : at + size - 1] == ending]


def _largest(values: Floats, count: int) -> NDArray[np.intp]:
    """Places of the `count` largest of each row, in no order."""
    if count >= values.shape[1]:
        return np.broadcast_to(np.arange(values.shape[1]), values.shape)
    return np.argpartition(values, -count, axis=1)[:, -count:]
