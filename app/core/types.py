"""Values that several layers share. All frozen; nothing here knows a library."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

from app.core.errors import ServingError


class Priority(IntEnum):
    """Class of a request; a lower number is served first."""

    INTERACTIVE = 0  #: somebody looks at the screen
    NORMAL = 1
    BATCH = 2  #: whenever there is time


@dataclass(frozen=True, slots=True)
class Asker:
    """On whose behalf an item is inferred, and how urgently.

    caller: shares are fair by it. key: id of the API key that pays, empty without one. models:
    names that may be asked; None: all. most_urgent: no better class is given. is_patient: the time
    that is given may be longer than the model's own limit.
    """

    caller: str = ""
    priority: Priority = Priority.NORMAL
    key: str = ""
    models: frozenset[str] | None = None
    most_urgent: Priority = Priority.INTERACTIVE
    is_patient: bool = False

    def asking(self, priority: Priority) -> "Asker":
        """The same in another class, as far as it may."""
        return replace(self, priority=max(priority, self.most_urgent))


NOBODY = Asker()


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one item as the model's own tokenizer counts them."""

    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Timings:
    """Where the time of one item went, in milliseconds."""

    queue_ms: float = 0.0
    compute_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a task makes of one input.

    value: plain JSON data (text, label, list of floats, list of texts).
    metadata: further plain JSON data for the caller, for instance all scores.
    """

    value: Any
    metadata: Mapping[str, Any] = field(default_factory=dict)
    usage: Usage = Usage()


@dataclass(frozen=True, slots=True)
class Piece:
    """What an answer's text is longer by, and how many tokens that is.

    index: which text, where several were asked for. logprobs: how likely those tokens were, where
    that was asked for: lists with an entry per token, packed (workers/messages.py). request: whose
    it is, where several requests are streamed together. finish_reason: why the text ends here,
    where it does so before others of its answer; then the addition may be empty.
    """

    text: str
    tokens: int
    index: int = 0
    logprobs: tuple[bytes, ...] = ()
    request: int = 0
    finish_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """An item that was inferred. is_cached: earlier, for an equal request."""

    answer: Answer
    timings: Timings = Timings()
    is_cached: bool = False


@dataclass(frozen=True, slots=True)
class Failed:
    """An item that was not."""

    error: ServingError


Outcome = Done | Failed
