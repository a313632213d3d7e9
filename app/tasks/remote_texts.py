"""What another server writes, whole or in pieces, as an answer of ours.

Calls of functions come back as text in the form of Hermes, which is how models here write them and
what the API reads them from.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec

from app.core.types import Answer, Usage
from app.tasks.remote import (
    AnswerBrokeOff,
    MalformedAnswer,
    RemoteUsage,
    read,
    usage_of,
)

MOST_CALLS = 128
REASONS = ("stop", "length", "content_filter")


class _Function(msgspec.Struct, frozen=True):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct, frozen=True):
    function: _Function = _Function()
    index: int = 0


class _Message(msgspec.Struct, frozen=True):
    content: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _ChatChoice(msgspec.Struct, frozen=True):
    """message: of a whole answer; delta: of a stream."""

    message: _Message = _Message()
    delta: _Message = _Message()
    finish_reason: str | None = None


class _TextChoice(msgspec.Struct, frozen=True):
    text: str = ""
    finish_reason: str | None = None


class _Chat(msgspec.Struct, frozen=True):
    choices: list[_ChatChoice]
    usage: RemoteUsage | None = None


class _Text(msgspec.Struct, frozen=True):
    choices: list[_TextChoice]
    usage: RemoteUsage | None = None


class _Trouble(msgspec.Struct, frozen=True):
    """How streams tell of an error."""

    error: Any = None


_Choice = TypeVar("_Choice", _ChatChoice, _TextChoice)


@dataclass(slots=True)
class _Calls:
    """Calls of functions, as they are put together from the parts of a stream."""

    parts: dict[int, list[str]] = field(default_factory=dict)  # name, then pieces of arguments

    def add(self, calls: list[_ToolCall] | None) -> None:
        for call in calls or ():
            if call.index not in self.parts and len(self.parts) == MOST_CALLS:
                raise MalformedAnswer
            said = self.parts.setdefault(call.index, [""])
            said[0] = said[0] or call.function.name or ""
            said.append(call.function.arguments or "")

    def text(self) -> str:
        return "".join(_marked(name, "".join(rest)) for name, *rest in self.parts.values())


def _marked(name: str, arguments: str) -> str:
    """A call as text; arguments stay exactly as the other server wrote them, marks among them."""
    said = msgspec.json.encode({"name": name, "arguments": arguments}).decode()
    said = said.replace("<", "\\u003c")
    return f"\n<tool_call>\n{said}\n</tool_call>"


class _TextsReader(ABC, Generic[_Choice]):
    """count: how many texts were asked for. head: what stands in front of each."""

    _form: type[_Chat] | type[_Text]

    def __init__(self, count: int, seed: int | None, head: str = "") -> None:
        self._count = count
        self._metadata: dict[str, Any] = {} if seed is None else {"seed": seed}
        self._head = head
        self._texts: list[str] = []
        self._tokens = 0
        self._reason: str | None = None
        self._usage: RemoteUsage | None = None
        self._calls = _Calls()

    def whole(self, content: bytes) -> Answer:
        said = read(content, self._form)
        if len(said.choices) != self._count:
            raise MalformedAnswer
        texts = [self._head + self._text_of(choice) for choice in said.choices]
        reasons = [_reason(choice.finish_reason) for choice in said.choices]
        if self._count == 1:
            return self._answer(texts[0], reasons[0], said.usage)
        return self._answer(texts, reasons, said.usage)

    def take(self, event: bytes) -> tuple[str, int]:
        if read(event, _Trouble).error is not None:
            raise AnswerBrokeOff
        said = read(event, self._form)
        self._usage = said.usage or self._usage
        if not said.choices:
            return "", 0
        choice = said.choices[0]
        self._reason = choice.finish_reason or self._reason
        text = self._piece_of(choice)
        self._tokens += bool(text)
        return self._tell(text)

    def used(self) -> Usage:
        return usage_of(self._usage, self._tokens)

    def end(self, *, is_complete: bool) -> Answer:
        if self._reason is None and not is_complete:
            raise AnswerBrokeOff
        text = "".join(self._texts) + self._calls.text() or self._head
        return self._answer(text, _reason(self._reason), self._usage)

    def _tell(self, text: str) -> tuple[str, int]:
        if not text:
            return "", 0
        shown = text if self._texts else self._head + text
        self._texts.append(shown)
        return shown, 1

    def _answer(
        self, value: str | list[str], reason: str | list[str], usage: RemoteUsage | None
    ) -> Answer:
        metadata = {"finish_reason": reason, **self._metadata}
        if usage is None:
            metadata["usage_unknown"] = True
        return Answer(value, metadata, usage_of(usage, self._tokens))

    @abstractmethod
    def _text_of(self, choice: Any) -> str:
        """The text of a whole answer's choice."""

    @abstractmethod
    def _piece_of(self, choice: Any) -> str:
        """What an event's choice adds to the text."""


class CompletionReader(_TextsReader[_TextChoice]):
    """Of `/completions`."""

    _form = _Text

    def _text_of(self, choice: _TextChoice) -> str:
        return choice.text

    def _piece_of(self, choice: _TextChoice) -> str:
        return choice.text


class ChatReader(_TextsReader[_ChatChoice]):
    """Of `/chat/completions`."""

    _form = _Chat

    def _text_of(self, choice: _ChatChoice) -> str:
        calls = _Calls()
        for index, call in enumerate(choice.message.tool_calls or ()):
            calls.add([_ToolCall(call.function, index)])
        return (choice.message.content or "") + calls.text()

    def _piece_of(self, choice: _ChatChoice) -> str:
        self._calls.add(choice.delta.tool_calls)
        return choice.delta.content or ""


def _reason(said: str | None) -> str:
    """A call of a function is the end that the model chose."""
    return said if said in REASONS else "stop"
