"""The texts that grow from one prompt: independent continuations, or beams. No library here.

Both are told the logits after each of their texts (`advance`; the prompt is the first text of all)
and answer which of those go on, and from where: for each text that is read next, its place among
the texts before. `last` is the token of each that is read next; `result` is there at the end.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from app.core.inference import Decoding, Generated, Sampling, TokenLogprob, Written
from app.runtimes.beam_search import Beams, Marks
from app.runtimes.next_tokens import Floats, NextTokens
from app.runtimes.openvino_paged_grammar import Matcher
from app.runtimes.openvino_paged_sampler import Chooser, logprobs_of

Decode = Callable[[Sequence[int]], str]
SPARE_TAIL = 8  # tokens without a letter of their own may lie within a stop string
NO_TOKEN = -1


@dataclass(slots=True)
class Continuation:
    """One text that grows. number: which one; ended: its finish reason, once there is one."""

    number: int
    chooser: Chooser
    matcher: Matcher | None = None
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    ended: str | None = None


class Continuations:
    """As many as the request wants, each with chances and counts of its own."""

    def __init__(
        self,
        sampling: Sampling,
        prompt: Sequence[int],
        ends: Sequence[int],
        scratch: Floats,
        decode: Decode,
        matchers: Sequence[Matcher] = (),
    ) -> None:
        self.last: list[int] = []
        self._sampling = sampling
        self._ends = frozenset(ends)
        self._decode = decode
        self._tail = max((len(stop.encode()) for stop in sampling.stop), default=0) + SPARE_TAIL
        self._all = []
        for number in range(sampling.sequences):
            matcher = matchers[number] if matchers else None
            chooser = Chooser(sampling, number, prompt, ends, scratch, matcher)
            self._all.append(Continuation(number, chooser, matcher))
        self._growing = list(self._all)
        self._news: list[Written] = []

    def advance(self, logits: Floats) -> list[int]:
        is_first = not self.last
        parents: list[int] = []
        growing: list[Continuation] = []
        self._news = []
        for row, text in enumerate(self._growing):
            parent = 0 if is_first else row
            self._append(text, logits[parent])
            token, logprobs = (text.token_ids[-1],), tuple(text.logprobs[-1:])
            self._news.append(Written(token, text.number, logprobs, text.ended))
            if text.ended is None:
                growing.append(text)
                parents.append(parent)
        self._growing = growing
        self.last = [text.token_ids[-1] for text in growing]
        return parents

    def result(self) -> tuple[Generated, ...]:
        return tuple(
            Generated(tuple(text.token_ids), text.ended or "length", tuple(text.logprobs))
            for text in self._all
        )

    def news(self) -> list[Written]:
        """What the latest `advance` has added."""
        return self._news

    def _append(self, text: Continuation, logits: Floats) -> None:
        token = text.chooser.choose(logits)
        text.token_ids.append(token)
        if self._sampling.logprobs is not None:
            text.logprobs.append(logprobs_of(logits, token, self._sampling.logprobs))
        text.ended = self._reason(text, token)

    def _reason(self, text: Continuation, token: int) -> str | None:
        if text.matcher is not None and text.matcher.has_ended:
            return "stop" if text.matcher.is_complete else "length"
        if token in self._ends or self._has_stop(text):
            return "stop"
        return "length" if len(text.token_ids) == self._sampling.max_new_tokens else None

    def _has_stop(self, text: Continuation) -> bool:
        """Whether a stop string ends in the last token. A token is a byte at least, but for a few
        that are none."""
        if not self._sampling.stop:
            return False
        tail = self._decode(text.token_ids[-self._tail :])
        return any(stop in tail for stop in self._sampling.stop)


class BeamTexts:
    """The likeliest texts, by the rules of app/runtimes/beam_search.py. Stop strings end none of
    them: which beam wins is not known before all have ended."""

    def __init__(self, sampling: Sampling, ends: Sequence[int]) -> None:
        decoding = Decoding(
            max_tokens=sampling.max_new_tokens,
            min_tokens=sampling.min_new_tokens,
            beams=sampling.beams,
        )
        marks = Marks(NO_TOKEN, ends[0] if ends else NO_TOKEN, other_ends=tuple(ends[1:]))
        self.last: list[int] = []
        self._sequences = sampling.sequences
        self._longest = sampling.max_new_tokens
        self._ends = frozenset(ends)
        self._beams = Beams(decoding, marks)

    def advance(self, logits: Floats) -> list[int]:
        most = logits.max(axis=1, keepdims=True)
        totals = np.log(np.exp(logits - most).sum(axis=1, dtype=np.float64)) + most[:, 0]
        own = np.array(logits)
        parents = self._beams.step(NextTokens(own, own.copy(), totals.astype(np.float32)))
        if self._beams.is_done:
            return []
        self.last = [text[-1] for text in self._beams.texts]
        return parents

    def result(self) -> tuple[Generated, ...]:
        return tuple(
            Generated(tuple(text), "stop" if text[-1] in self._ends else "length")
            for text in self._beams.best(self._sequences)
        )
