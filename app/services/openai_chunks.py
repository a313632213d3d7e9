"""OpenAI's streams as pure functions of pieces: chunks of a chat or of completions.

A stream is pieces of texts, of several in turn as they are written, and behind those of a prompt
its result, with which its choices end. Choices are numbered prompt by prompt. How likely tokens
were is told with the chunk that has their text; of text that is held back, or no part of the
answer, with a later one.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from app.core.types import Answer, Done, Failed, Piece
from app.services.inference_service import InferenceResult
from app.services.openai_generation import Asked, Head, texts_of_answer, usage_of
from app.services.openai_logprobs import of_chat, of_completion
from app.services.openai_tools import split_calls, without_calls
from app.workers.messages import unpack_logprobs

Chunk = dict[str, Any]
Events = AsyncIterator[Piece | InferenceResult]


@dataclass(frozen=True, slots=True)
class Broken:
    """The stream ends here, for this reason."""

    failed: Failed


class Writer(Protocol):
    """What one answer becomes on the wire."""

    def begin(self) -> Iterator[Chunk]:
        """Before the first piece."""

    def take(self, piece: Piece) -> Iterator[Chunk]: ...

    def finish(self, request: int, answer: Answer) -> Iterator[Chunk]:
        """Nothing of this prompt comes any more."""

    def end(self, answers: Sequence[Answer]) -> Iterator[Chunk]:
        """answers: one per prompt."""


async def chunks(events: Events, writer: Writer) -> AsyncIterator[Chunk | Broken]:
    answers: dict[int, Answer] = {}
    for chunk in writer.begin():
        yield chunk
    async for event in events:
        match event:
            case Piece():
                for chunk in writer.take(event):
                    yield chunk
            case InferenceResult(outcome=Failed() as failed):
                yield Broken(failed)
                return
            case InferenceResult(outcome=Done(answer=answer), request=request):
                answers[request] = answer
                for chunk in writer.finish(request, answer):
                    yield chunk
    for chunk in writer.end([answers[request] for request in sorted(answers)]):
        yield chunk


@dataclass(slots=True)
class _Choice:
    """One text. held: what came of it and is not shown; shown: characters that are. told: entries
    of logprobs that came; logprobs: those that are not shown. offset: where the next token begins.
    texts: all that came.
    """

    offset: int = 0
    texts: list[str] = field(default_factory=list)
    has_ended: bool = False
    held: str = ""
    shown: int = 0
    told: int = 0
    logprobs: list[dict[str, Any]] = field(default_factory=list)

    def take(self, piece: Piece) -> None:
        self.texts.append(piece.text)
        self.held += piece.text
        for packed in piece.logprobs:
            self.note(unpack_logprobs(packed))

    def note(self, entries: Sequence[dict[str, Any]]) -> None:
        self.logprobs += entries
        self.told += len(entries)

    def show(self, chars: int) -> str:
        text, self.held = self.held[:chars], self.held[chars:]
        self.shown += len(text)
        return text

    def show_logprobs(self) -> list[dict[str, Any]]:
        shown, self.logprobs = self.logprobs, []
        return shown


class _ChunkWriter(ABC):
    """What chats and completions have in common."""

    kind = ""

    def __init__(self, head: Head, asked: Asked) -> None:
        self._head = head
        self._asked = asked
        self._choices: dict[int, _Choice] = {}
        options = asked.given.get("stream_options") or {}
        self._tells_usage = options.get("include_usage") is True

    def begin(self) -> Iterator[Chunk]:
        yield from ()

    def take(self, piece: Piece) -> Iterator[Chunk]:
        at = piece.request * self._asked.choices_each + piece.index
        choice = self._choice(at)
        choice.take(piece)
        if piece.finish_reason is not None:
            choice.has_ended = True
            yield from self._last(at, choice, "".join(choice.texts), piece.finish_reason)
        elif text := choice.show(self._settled(choice.held)):
            yield from self._say(at, choice, text)

    def finish(self, request: int, answer: Answer) -> Iterator[Chunk]:
        first = request * self._asked.choices_each
        for at, (text, reason, told) in enumerate(texts_of_answer(answer), first):
            choice = self._choice(at)
            if choice.has_ended:
                continue
            choice.note((told or [])[choice.told :])
            yield from self._last(at, choice, text, reason)

    def end(self, answers: Sequence[Answer]) -> Iterator[Chunk]:
        if self._tells_usage:
            usage = usage_of(answers)
            yield {**self._head.fields(self.kind), "choices": [], "usage": usage}

    def _choice(self, at: int) -> _Choice:
        if at not in self._choices:
            self._choices[at] = _Choice(self._asked.chars_in_front(at))
        return self._choices[at]

    def _settled(self, text: str) -> int:
        """How many characters can be shown of what is held."""
        return len(text)

    @abstractmethod
    def _say(self, at: int, choice: _Choice, text: str) -> Iterator[Chunk]:
        """More of a text."""

    @abstractmethod
    def _last(self, at: int, choice: _Choice, text: str, reason: str) -> Iterator[Chunk]:
        """What is left of a text, all of it and why it ends."""

    def _chunk(self, at: int, fields: Chunk, reason: str | None = None) -> Chunk:
        choice = {"index": at, "logprobs": None, **fields, "finish_reason": reason}
        chunk = {**self._head.fields(self.kind), "choices": [choice]}
        return {**chunk, "usage": None} if self._tells_usage else chunk


class ChatWriter(_ChunkWriter):
    """The first chunk of each choice names the role, the last one the reason of its end; calls of
    tools come whole in front of that."""

    kind = "chat.completion.chunk"

    def __init__(self, head: Head, asked: Asked) -> None:
        super().__init__(head, asked)
        self._begun: set[int] = set()

    def _settled(self, text: str) -> int:
        return without_calls(text) if self._asked.has_tools else len(text)

    def _say(self, at: int, choice: _Choice, text: str) -> Iterator[Chunk]:
        yield from self._open(at)
        logprobs = of_chat(choice.show_logprobs() or None)
        yield self._chunk(at, {"delta": {"content": text}, "logprobs": logprobs})

    def _last(self, at: int, choice: _Choice, text: str, reason: str) -> Iterator[Chunk]:
        left, calls = split_calls(text) if self._asked.has_tools else (text, [])
        if rest := left[choice.shown :]:
            yield from self._say(at, choice, rest)
        yield from self._open(at)
        if calls:
            reason = "tool_calls"
            numbered = [{"index": number, **call} for number, call in enumerate(calls)]
            yield self._chunk(at, {"delta": {"tool_calls": numbered}})
        logprobs = of_chat(choice.show_logprobs() or None)
        yield self._chunk(at, {"delta": {}, "logprobs": logprobs}, reason)

    def _open(self, at: int) -> Iterator[Chunk]:
        if at not in self._begun:
            self._begun.add(at)
            yield self._chunk(at, {"delta": {"role": "assistant", "content": ""}})


class CompletionWriter(_ChunkWriter):
    """The last chunk of each choice has the rest of its text, and the reason of its end."""

    kind = "text_completion"

    def _say(
        self, at: int, choice: _Choice, text: str, reason: str | None = None
    ) -> Iterator[Chunk]:
        entries = choice.show_logprobs()
        logprobs = of_completion(entries or None, choice.offset)
        choice.offset += sum(len(entry["token"]) for entry in entries)
        yield self._chunk(at, {"text": text, "logprobs": logprobs}, reason)

    def _last(self, at: int, choice: _Choice, text: str, reason: str) -> Iterator[Chunk]:
        yield from self._say(at, choice, text[choice.shown :], reason)
