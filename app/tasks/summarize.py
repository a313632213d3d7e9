"""Text to its most telling sentences: LexRank for what matters, MMR against saying it twice.

Extractive: every sentence of the summary stands in the text, so nothing is invented. Each
sentence is one row; docs/models.md has the measured quality.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.core.errors import InvalidRequest
from app.core.types import Answer, Usage
from app.tasks.base import Prepared, Tokenizer, Vectors
from app.tasks.rows import cut, require_text
from app.tasks.sentences import split

Floats = NDArray[np.float64]

MAX_ROWS = 512  # sentences that are compared; a longer text is sampled evenly
DAMPING = 0.15
STEPS = 50
WORTHWHILE = 0.5  # of an average sentence: what is worth less does not fill up a summary
REPETITION = 1.0  # how much likeness to a chosen sentence costs


@dataclass(frozen=True, slots=True)
class Limits:
    """Tokens of the summary. aim: where to stop unless `least` asks for more."""

    least: int
    aim: float
    most: int


@dataclass(frozen=True, slots=True)
class Sentences:
    """The sentences that are compared, their tokens, and how many the text has."""

    texts: tuple[str, ...]
    tokens: tuple[int, ...]
    source_count: int
    source_tokens: int


class Summarize:
    """language: of the sentence splitter; share: how much of the text a summary may be, where
    `min_length` does not ask for more."""

    def __init__(self, language: str = "en", share: float = 0.5) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, not {share}")
        self._language = language
        self._share = share

    def prepare(self, text: str, parameters: Mapping[str, Any], tokenizer: Tokenizer) -> Prepared:
        require_text(text)
        least, most = parameters["min_length"], parameters["max_length"]
        if least > most:
            raise InvalidRequest(
                f"parameters.min_length ({least}) must not exceed parameters.max_length ({most})"
            )
        texts = split(text, self._language)
        marks, *rows = tokenizer.encode(["", *texts])
        tokens = [len(row) - len(marks) for row in rows]
        kept = evenly(len(texts), MAX_ROWS)
        state = Sentences(
            tuple(texts[index] for index in kept),
            tuple(tokens[index] for index in kept),
            source_count=len(texts),
            source_tokens=sum(tokens),
        )
        compared = tuple(cut(rows[index], tokenizer.max_tokens) for index in kept)
        return Prepared(
            compared if len(texts) > 1 else (),
            input_tokens=sum(tokens) + len(marks),
            state=state,
        )

    def finish(
        self, prepared: Prepared, outputs: Sequence[Any], parameters: Mapping[str, Any]
    ) -> Answer:
        source: Sentences = prepared.state
        chosen = [0]
        if len(source.texts) > 1:
            limits = Limits(
                parameters["min_length"],
                self._share * source.source_tokens,
                parameters["max_length"],
            )
            chosen = sorted(choose(similarities(np.stack(outputs)), source.tokens, limits))
        metadata = {"sentences": len(chosen), "source_sentences": source.source_count}
        if len(source.texts) < source.source_count:
            metadata["compared_sentences"] = len(source.texts)
        return Answer(
            " ".join(source.texts[index] for index in chosen),
            metadata,
            Usage(prepared.input_tokens, sum(source.tokens[index] for index in chosen)),
        )


def evenly(count: int, most: int) -> list[int]:
    """Indices of at most `most` of `count` things, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(step * (count - 1) / (most - 1)) for step in range(most)]


def similarities(vectors: Vectors) -> Floats:
    """Cosines, none below 0 and none of a sentence with itself."""
    sound = np.nan_to_num(vectors.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    lengths = np.linalg.norm(sound, axis=1, keepdims=True)
    unit = sound / np.where(lengths > 0, lengths, 1.0)
    cosines: Floats = np.clip(unit @ unit.T, 0.0, 1.0)
    np.fill_diagonal(cosines, 0.0)
    return cosines


def lexrank(likeness: Floats, prior: Floats) -> Floats:
    """How central each sentence is: the random walk over likenesses, restarting after `prior`.

    A sentence that is like no other hands its weight to the prior.
    """
    sums = likeness.sum(axis=1, keepdims=True)
    moves = np.where(sums > 0, likeness / np.where(sums > 0, sums, 1.0), prior)
    rank = prior
    for _ in range(STEPS):
        rank = DAMPING * prior + (1 - DAMPING) * (rank @ moves)
    return rank


def choose(likeness: Floats, tokens: Sequence[int], limits: Limits) -> list[int]:
    """Indices of the summary's sentences, best first; always at least one.

    The walk restarts at a sentence in proportion to its tokens: a longer one says more.
    """
    sizes = np.array(tokens, np.float64)
    said = np.zeros(len(sizes))
    worth = lexrank(likeness, (sizes + 1) / (sizes + 1).sum()) * len(sizes)
    chosen: list[int] = []
    total = 0.0
    free = np.ones(len(sizes), bool)
    while free.any():
        limit = limits.most if total < max(limits.least, 1) else min(limits.aim, limits.most)
        fits = free & (total + sizes <= limit)
        if chosen and total >= limits.least:
            fits &= worth >= WORTHWHILE
        if not fits.any() and chosen:
            break
        gain = np.where(fits if fits.any() else free, worth - REPETITION * said, -np.inf)
        best = int(gain.argmax())
        chosen.append(best)
        free[best] = False
        total += sizes[best]
        said = np.maximum(said, likeness[best])
    return chosen
