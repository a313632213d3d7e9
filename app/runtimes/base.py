"""What a runtime must do. Three shapes: one forward pass per row, one step for all sequences, or
another server that is asked."""

from collections.abc import AsyncGenerator, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from app.core.inference import Generated, Sampling, TokenIds, Tokenizer, Vectors, Written
from app.core.upstream import Call, UpstreamOptions


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """How the CPU is cut up: `streams` batches at a time, each on `threads` threads."""

    streams: int
    threads: int


class OneShotRuntime(Protocol):
    """One pass per batch of rows. `run` may be called by `streams` threads at once.

    tokenizer: None where rows are tensors. A runtime over a graph may also have a `signature`
    (core/tensors.py), which tasks are checked against.
    """

    tokenizer: Any
    plan: StreamPlan

    def group_of(self, settings: Any) -> Hashable:
        """Rows of different groups never share a batch, for instance because the library takes a
        parameter per batch and not per row."""

    def run(self, rows: Sequence[Any], settings: Sequence[Any]) -> Sequence[Any] | Vectors:
        """One output per row, in the order of `rows`; rows may differ in length.

        settings: what the task's `Prepared` says, once per row; all of one group. An encoder's
        output is float32 [rows, width]; an encoder-decoder's is a tuple of Generated per row.
        """

    def probe(self, rows: Sequence[TokenIds]) -> None:
        """Run a batch as calibration times it: the usual work, in little time."""


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What one step ended: continuations by sequence id, and how many tokens it made.

    read: how many tokens of prompts it read, by sequence id.
    written: the new tokens of prompts that have no beams, one entry per continuation that grew,
    those that end with this step included: together they begin the `Generated.token_ids` to be,
    and are all of them where one has a finish reason.
    They may come late, some after others, or only with the end, and are then in `finished` alone.
    """

    finished: Mapping[int, tuple[Generated, ...]]
    tokens: int
    read: Mapping[int, int]
    written: Mapping[int, Sequence[Written]] = field(default_factory=dict)


class StepRuntime(Protocol):
    """Continuous batching: prompts join and leave between steps. One thread calls it."""

    tokenizer: Tokenizer
    threads: int
    max_running_tokens: int  # prompt and continuation tokens that fit in the cache together

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of a continuation, special tokens left out."""

    def add(self, sequence_id: int, prompt: TokenIds, sampling: Sampling) -> None:
        """Let a prompt join at the next step that has room to read it."""

    def cancel(self, sequence_id: int) -> None:
        """Let a prompt leave before the next step, between two chunks if it is being read."""

    def step(self) -> StepOutcome:
        """One token for every running sequence; long prompts are read in chunks."""


@runtime_checkable
class DecodesMany(Protocol):
    """A runtime for which one call per step costs much less than one per sequence."""

    def decode_many(self, rows: Sequence[Sequence[int]]) -> list[str]:
        """`decode` of each row."""


class RemoteRuntime(Protocol):
    """Another server. Cancelling a call ends it there, too. left_s: time in which it is of use."""

    options: UpstreamOptions

    async def problem(self) -> str:
        """Why nothing can be asked now, for people; empty where it serves."""

    async def whole(self, call: Call, left_s: float, request_id: str) -> bytes:
        """The answer. Raises ServingError."""

    def events(self, call: Call, left_s: float, request_id: str) -> AsyncGenerator[bytes, None]:
        """The data of each event of a call that streams, `[DONE]` among them. Raises ServingError,
        `KeyRefused` or `Unreachable` where that says something of the server itself."""

    async def close(self) -> None:
        """Nothing is asked any more."""
