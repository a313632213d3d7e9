"""From what steps write to pieces of texts that are streamed, and how likely their tokens were.

A text of an item is told while it grows, each of several under its own index; the rest with its
end (tasks/detokenise.py), which may come before the ends of the others. Tokens whose text has to
wait are told with the piece that has it.

Where many texts grow, each is told at every second step, after its first piece. To tell one costs
the server and its client some 0.16 ms, and while they take it from a core the step of all waits.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.core.errors import InvariantBroken
from app.core.inference import Generated, Written
from app.core.types import Answer, Piece
from app.runtimes.base import DecodesMany, StepRuntime
from app.tasks.detokenise import TextStream, TokenReader, reader_of
from app.tasks.generate import GenerationPlan, text_of_tokens
from app.tasks.steering import entries_of, token_texts, without_end
from app.workers.messages import pack_logprobs

MANY = 16  # texts that are told at every step

Due = tuple[int, "OpenText", list[int]]
"""An item, a text of it, and the tokens to be read."""


def text_of(answer: Answer, index: int) -> str:
    """Of a task that writes texts, one or several."""
    text: str = answer.value[index] if isinstance(answer.value, list) else answer.value
    return text


def logprobs_of(answer: Answer, index: int) -> list[dict[str, Any]]:
    """An entry per token of one text; none where they were not asked for."""
    told: list[Any] = answer.metadata.get("logprobs", [])
    return told[index] if isinstance(answer.value, list) and told else told


@dataclass(slots=True)
class OpenText:
    """One text that is streamed. told: tokens of its pieces so far; untold: those since, and
    logprobs of these. has_ended: all of it was told."""

    index: int
    stream: TextStream
    plan: GenerationPlan
    has_ended: bool = False
    told: int = 0
    untold: int = 0
    logprobs: list[dict[str, Any]] = field(default_factory=list)

    def piece(self, text: str, finish_reason: str | None = None) -> Piece:
        """With all that was not told."""
        logprobs = (pack_logprobs(self.logprobs),) if self.logprobs else ()
        piece = Piece(text, self.untold, self.index, logprobs, finish_reason=finish_reason)
        self.told, self.untold, self.logprobs = self.told + self.untold, 0, []
        return piece


class Teller:
    """Reads the tokens of one runtime."""

    def __init__(self, runtime: StepRuntime) -> None:
        self._runtime = runtime
        self._text_of = token_texts(runtime.decode)
        self._reader: TokenReader | None = None

    def open(self, plan: GenerationPlan) -> list[OpenText]:
        """What will grow; of beams, none is known to be a text before the end."""
        if plan.sampling.beams > 1:
            return []
        if self._reader is None:
            self._reader = reader_of(self._runtime.tokenizer, self._runtime.decode)
        return [
            OpenText(
                index, TextStream(self._reader, stops=plan.sampling.stop, head=plan.head), plan
            )
            for index in range(plan.sampling.sequences)
        ]

    def tell(
        self, grown: Iterable[tuple[int, Sequence[OpenText], Sequence[Written]]]
    ) -> list[tuple[int, Piece]]:
        """grown: items with their texts, and what a step has added to them."""
        due: list[Due] = []
        ended: list[tuple[int, Piece]] = []
        for item_id, texts, written in grown:
            for news in written:
                text = texts[news.index]
                text.untold += len(news.token_ids)
                if news.logprobs:
                    text.logprobs += entries_of(news.token_ids, news.logprobs, self._text_of)
                window = text.stream.take(news.token_ids)
                if news.finish_reason is not None:
                    ended += [(item_id, piece) for piece in self._last(text, news.finish_reason)]
                elif window is not None:
                    due.append((item_id, text, window))
        due = _now(due)
        read = self._decoded([window for *_, window in due])
        grew = [
            (item_id, text.piece(said))
            for (item_id, text, window), whole in zip(due, read, strict=True)
            if (said := text.stream.tell(window, whole))
        ]
        return grew + ended

    def _last(self, text: OpenText, finish_reason: str) -> list[Piece]:
        """Of a text that ended before others of its item. None where `end` will object."""
        whole = text_of_tokens(text.plan, text.stream.token_ids, self._runtime.decode)
        if (rest := text.stream.end(whole)) is None:
            return []
        text.has_ended = True
        text.logprobs = without_end(text.logprobs, finish_reason)
        return [text.piece(rest, finish_reason)]

    def end(
        self, texts: Sequence[OpenText], generated: Sequence[Generated], answer: Answer
    ) -> list[Piece]:
        """What is left to tell of texts that have ended. Raises InvariantBroken."""
        pieces = []
        for text, made in zip(texts, generated, strict=False):
            if text.has_ended:
                continue
            rest = text.stream.end(text_of(answer, text.index))
            if rest is None:
                raise InvariantBroken("pieces were told that the text does not have")
            text.untold = len(made.token_ids) - text.told
            text.logprobs = logprobs_of(answer, text.index)[text.told :]
            if rest:
                pieces.append(text.piece(rest))
        return pieces

    def _decoded(self, rows: list[list[int]]) -> list[str]:
        if len(rows) > 1 and isinstance(self._runtime, DecodesMany):
            return self._runtime.decode_many(rows)
        return [self._runtime.decode(row) for row in rows]


def _now(due: list[Due]) -> list[Due]:
    """Those to be told at this step: all first pieces, and of many the half that waits for most."""
    if len(due) <= MANY:
        return due
    first = sum(not text.told for _, text, _ in due)
    most = max(first, -(-len(due) // 2))
    return sorted(due, key=lambda one: (one[1].told > 0, -one[1].untold))[:most]
