"""OpenAI's streams as pure functions of pieces: chunks of a chat or of a completion.

A stream is pieces of the text, of several texts one after the other, and then one result. How
likely tokens were is told with the last chunk of each choice.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

from app.core.types import Answer, Failed
from app.services.inference_service import InferenceResult
from app.services.openai_generation import Asked, Head, texts_of_answer, usage_of
from app.services.openai_logprobs import of_chat, of_completion
from app.services.openai_tools import split_calls, without_calls
from app.services.streaming import Piece

Chunk = dict[str, Any]
Events = AsyncIterator[Piece | InferenceResult]


@dataclass(frozen=True, slots=True)
class Broken:
    """The stream ends here, for this reason."""

    failed: Failed


def includes_usage(asked: Asked) -> bool:
    return (asked.given.get("stream_options") or {}).get("include_usage") is True


async def chat_chunks(events: Events, head: Head, asked: Asked) -> AsyncIterator[Chunk | Broken]:
    writer = _ChatWriter(head, asked)
    async for event in events:
        if isinstance(event, InferenceResult):
            if isinstance(event.outcome, Failed):
                yield Broken(event.outcome)
                return
            for chunk in writer.end(event.outcome.answer):
                yield chunk
        else:
            for chunk in writer.take(event):
                yield chunk


async def completion_chunks(
    events: Events, head: Head, asked: Asked
) -> AsyncIterator[Chunk | Broken]:
    writer = _CompletionWriter(head, asked)
    async for event in events:
        if isinstance(event, InferenceResult):
            if isinstance(event.outcome, Failed):
                yield Broken(event.outcome)
                return
            for chunk in writer.end(event.outcome.answer):
                yield chunk
        elif event.text:
            yield writer.take(event)


@dataclass(slots=True)
class _ChatWriter:
    """The first chunk of each choice names the role, the last one the reason of its end."""

    head: Head
    asked: Asked
    texts: dict[int, str] = field(default_factory=lambda: defaultdict(str))  # so far
    shown: dict[int, int] = field(default_factory=lambda: defaultdict(int))  # characters of each
    begun: set[int] = field(default_factory=set)

    def take(self, piece: Piece) -> Iterator[Chunk]:
        index = piece.index
        if self.asked.has_tools:
            text = self.texts[index] = self.texts[index] + piece.text
            text = text[self.shown[index] : without_calls(text)]
        else:
            text = piece.text
        if text:
            yield from self._say(index, text)
            self.shown[index] += len(text)

    def end(self, answer: Answer) -> Iterator[Chunk]:
        for index, (text, reason, told) in enumerate(texts_of_answer(answer)):
            left: str = text
            calls: list[dict[str, Any]] = []
            if self.asked.has_tools:
                left, calls = split_calls(text)
            if left := left[self.shown[index] :]:
                yield from self._say(index, left)
            yield from self._begin(index)
            if calls:
                reason = "tool_calls"
                numbered = [{"index": at, **call} for at, call in enumerate(calls)]
                yield self._chunk(index, {"tool_calls": numbered}, None)
            yield self._chunk(index, {}, reason, of_chat(told))
        if includes_usage(self.asked):
            fields = self.head.fields("chat.completion.chunk")
            yield {**fields, "choices": [], "usage": usage_of([answer])}

    def _say(self, index: int, text: str) -> Iterator[Chunk]:
        yield from self._begin(index)
        yield self._chunk(index, {"content": text}, None)

    def _begin(self, index: int) -> Iterator[Chunk]:
        if index not in self.begun:
            self.begun.add(index)
            yield self._chunk(index, {"role": "assistant", "content": ""}, None)

    def _chunk(
        self, index: int, delta: dict[str, Any], reason: str | None, logprobs: Any = None
    ) -> Chunk:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        chunk = {**self.head.fields("chat.completion.chunk"), "choices": [choice]}
        return {**chunk, "usage": None} if includes_usage(self.asked) else chunk


@dataclass(slots=True)
class _CompletionWriter:
    head: Head
    asked: Asked
    shown: dict[int, int] = field(default_factory=lambda: defaultdict(int))

    def take(self, piece: Piece) -> Chunk:
        self.shown[piece.index] += len(piece.text)
        return self._chunk(piece.index, piece.text, None)

    def end(self, answer: Answer) -> Iterator[Chunk]:
        for index, (text, reason, told) in enumerate(texts_of_answer(answer)):
            left = text[self.shown[index] :]
            yield self._chunk(index, left, reason, of_completion(told))
        if includes_usage(self.asked):
            fields = self.head.fields("text_completion")
            yield {**fields, "choices": [], "usage": usage_of([answer])}

    def _chunk(self, index: int, text: str, reason: str | None, logprobs: Any = None) -> Chunk:
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
        chunk = {**self.head.fields("text_completion"), "choices": [choice]}
        return {**chunk, "usage": None} if includes_usage(self.asked) else chunk
