"""Tasks that another server does for us: a request becomes a call, and its answer becomes ours.

Pure functions over bytes; who carries them is app/runtimes/upstream.py.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Protocol, TypeVar

import msgspec

from app.core.errors import ModelUnavailable
from app.core.types import Answer, Usage
from app.core.upstream import Call
from app.tasks.remote_parameters import FIELDS

_Said = TypeVar("_Said", bound=msgspec.Struct)
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class MalformedAnswer(ModelUnavailable):
    """The model's server sent what is no answer."""


class AnswerBrokeOff(ModelUnavailable):
    """The model's server broke off while it wrote the answer; ask again."""


class RemoteUsage(msgspec.Struct, frozen=True):
    """Tokens as the other server counts them."""

    prompt_tokens: _Count = 0
    completion_tokens: _Count | None = None


class Reader(Protocol):
    """Reads the answer to one call."""

    def whole(self, content: bytes) -> Answer:
        """Of a call that does not stream. Raises MalformedAnswer."""

    def take(self, event: bytes) -> tuple[str, int]:
        """What an event of a stream adds: text, and how many tokens it is at least.

        Raises MalformedAnswer, or AnswerBrokeOff for an error that the stream tells.
        """

    def used(self) -> Usage:
        """So far, by a stream; what the other server tells only with the end is 0 until then."""

    def end(self, *, is_complete: bool) -> Answer:
        """The answer of a stream, to which nothing is added any more; is_complete: it said so.

        Raises AnswerBrokeOff.
        """


class RemoteTask(Protocol):
    """A task of which this server does nothing but the translation."""

    def prepare(
        self, given: str | Mapping[str, Any], parameters: Mapping[str, Any], *, stream: bool
    ) -> tuple[Call, Reader]:
        """Raises InvalidRequest naming the field. stream: wanted, where the task can."""


def fields_of(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked for, under the names of OpenAI's API."""
    named = {theirs: parameters.get(ours) for ours, theirs in FIELDS.items()}
    return {name: value for name, value in named.items() if value is not None}


def read(content: bytes, kind: type[_Said]) -> _Said:
    """Raises MalformedAnswer."""
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise MalformedAnswer from None


def usage_of(said: RemoteUsage | None, counted: int = 0) -> Usage:
    """counted: tokens that were seen, should the server not tell."""
    if said is None:
        return Usage(0, counted)
    written = said.completion_tokens
    return Usage(said.prompt_tokens, counted if written is None else written)
