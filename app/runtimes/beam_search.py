"""How an encoder-decoder's text grows, token by token: beams, greedy choice or chance.

The rules are those of transformers' `generate` (its version 5), per document instead of per
batch, so that documents with other numbers of beams, other lengths and other penalties are
written side by side. Nothing here knows an engine: a draft is told what the model says about the
next token and answers which rows go on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from app.core.inference import Decoding, Generated
from app.runtimes.next_tokens import NextTokens, apply_rules, sample

NEVER = -1e9  # transformers' score of what cannot be


@dataclass(frozen=True, slots=True)
class Marks:
    """Token ids around a text. forced_eos: what the last token of the longest text has to be;
    other_ends: what ends a text like `eos`."""

    start: int
    eos: int
    forced_eos: int | None = None
    other_ends: tuple[int, ...] = ()

    @property
    def ends(self) -> tuple[int, ...]:
        return (self.eos, *self.other_ends)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A row's text with one more token, and the logarithm of its probability."""

    score: float
    row: int
    token: int


class Draft(Protocol):
    """One document's text while it is written."""

    texts: list[list[int]]  # one per row that the model is to read next, start token first
    is_done: bool

    def step(self, following: NextTokens) -> list[int]:
        """Choose the next tokens. Answers, for each of the new `texts`, which of the rows before
        it goes on from."""

    def result(self) -> Generated:
        """The best text; without start and end tokens."""


def start(decoding: Decoding, marks: Marks) -> Draft:
    """An empty draft."""
    if decoding.beams > 1:
        return Beams(decoding, marks)
    return Single(decoding, marks)


class Single:
    """Greedy or sampled."""

    def __init__(self, decoding: Decoding, marks: Marks) -> None:
        self.texts = [[marks.start]]
        self.is_done = False
        self._decoding = decoding
        self._marks = marks
        self._random = np.random.default_rng(decoding.seed)

    def step(self, following: NextTokens) -> list[int]:
        text = self.texts[0]
        token = _forced(text, self._decoding, self._marks)
        if token is None:
            apply_rules(following, self.texts, self._decoding, self._marks.ends)
            token = self._choose(following)
        text.append(token)
        self.is_done = _has_ended(text, self._decoding, self._marks)
        return [0]

    def result(self) -> Generated:
        return _generated(self.texts[0], self._decoding, self._marks)

    def _choose(self, following: NextTokens) -> int:
        if self._decoding.temperature > 0:
            return sample(following.logits[0], self._decoding, self._random)
        ids, logits = following.top(1)
        return int(ids[0, logits[0].argmax()])


class Beams:
    """The `beams` likeliest texts at a time; there is one row until the first free choice, since
    all beams are equal until then."""

    def __init__(self, decoding: Decoding, marks: Marks) -> None:
        self.texts = [[marks.start]]
        self.is_done = False
        self._decoding = decoding
        self._marks = marks
        self._scores = [0.0]
        self._finished: list[tuple[float, list[int]]] = []  # best first
        self._can_improve = True

    def step(self, following: NextTokens) -> list[int]:
        token = _forced(self.texts[0], self._decoding, self._marks)
        if token is None:
            apply_rules(following, self.texts, self._decoding, self._marks.ends)
            return self.advance(self._best(following))
        scores = enumerate(self._scores)
        return self.advance([Candidate(score, row, token) for row, score in scores])

    def advance(self, candidates: Sequence[Candidate]) -> list[int]:
        """candidates: the likeliest continuations, best first; twice as many as there are beams
        are enough, since each beam can end only once.
        """
        beams = self._decoding.beams
        grown = [[*self.texts[one.row], one.token] for one in candidates]
        ended = [_has_ended(text, self._decoding, self._marks) for text in grown]
        if not self._is_closed:
            self._keep(
                [
                    (candidates[at].score, grown[at])
                    for at, is_end in enumerate(ended[:beams])
                    if is_end
                ]
            )
        going = [index for index, has_ended in enumerate(ended) if not has_ended][:beams]
        if not going:
            self.is_done = True
            return []
        self.texts = [grown[index] for index in going]
        self._scores = [candidates[index].score for index in going]
        self._can_improve = self._can_improve and self._may_be_beaten()
        self.is_done = self._is_closed
        return [candidates[index].row for index in going]

    def result(self) -> Generated:
        best = self._finished[0][1] if self._finished else self.texts[0]  # all tokens were banned
        return _generated(best, self._decoding, self._marks)

    def best(self, count: int) -> list[list[int]]:
        """The best texts, end tokens included; fewer, where fewer were found."""
        texts = [text for _, text in self._finished] or self.texts
        return [text[1:] for text in texts[:count]]

    def _best(self, following: NextTokens) -> list[Candidate]:
        """The likeliest continuations over all rows."""
        count = 2 * self._decoding.beams
        ids, logits = following.top(count)
        scores = logits - following.log_total[:, np.newaxis]
        scores += np.asarray(self._scores, np.float32)[:, np.newaxis]
        flat = scores.ravel()
        order = np.argsort(-flat, kind="stable")[:count]
        width = ids.shape[1]
        return [
            Candidate(float(flat[at]), int(at) // width, int(ids.ravel()[at]))
            for at in order
            if flat[at] > NEVER
        ]

    def _keep(self, ended: Sequence[tuple[float, list[int]]]) -> None:
        """Of all finished texts the best, as many as there are beams."""
        power = self._decoding.length_penalty
        self._finished += [(score / (len(text) - 1) ** power, text) for score, text in ended]
        self._finished.sort(key=lambda finished: -finished[0])
        del self._finished[self._decoding.beams :]

    def _may_be_beaten(self) -> bool:
        """Whether the best running text, as long as it is now (or, for `never`, as long as helps
        it most), would be worth more than the worst finished one."""
        if not self._is_full:
            return True
        is_patient = self._decoding.early_stopping == "never"
        length = len(self.texts[0]) - 1
        if is_patient and self._decoding.length_penalty > 0:
            length = self._decoding.max_tokens
        hoped: float = self._scores[0] / length**self._decoding.length_penalty
        return hoped > self._finished[-1][0]

    @property
    def _is_closed(self) -> bool:
        return not self._can_improve or (self._decoding.early_stopping is True and self._is_full)

    @property
    def _is_full(self) -> bool:
        return len(self._finished) == self._decoding.beams


def _forced(text: list[int], decoding: Decoding, marks: Marks) -> int | None:
    """The next token where there is no choice."""
    made = len(text) - 1
    if marks.forced_eos is not None and made == decoding.max_tokens - 1:
        return marks.forced_eos
    return decoding.prefix[made] if made < len(decoding.prefix) else None


def _has_ended(text: list[int], decoding: Decoding, marks: Marks) -> bool:
    return text[-1] in marks.ends or len(text) - 1 == decoding.max_tokens


def _generated(text: list[int], decoding: Decoding, marks: Marks) -> Generated:
    """Without start, prefix and end. A text that was cut off ends for its length, even where its
    last token was forced."""
    made = text[1:]
    first = len(decoding.prefix)
    has_end = bool(made) and made[-1] in marks.ends
    is_longest = len(made) == decoding.max_tokens
    is_cut = not has_end or (is_longest and marks.forced_eos is not None)
    return Generated(
        tuple(made[first:-1] if has_end else made[first:]), "length" if is_cut else "stop"
    )
