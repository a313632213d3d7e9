"""What every task gives the worker: rows to run, and an answer made of their outputs.

A one-shot task turns one input into one or many rows (token ids). The worker runs the rows in
whatever batches suit the machine, beside rows of other items and other tasks over the same
weights, and hands the outputs back in order. Both functions are pure; neither sees a batch.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from app.core.inference import TokenIds, Tokenizer, Vectors
from app.core.tensors import Signature
from app.core.types import Answer

__all__ = ["FitsModel", "OneShotTask", "Prepared", "ReadsModel", "TokenIds", "Tokenizer", "Vectors"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """One input, ready to run.

    rows: token ids, each at most `Tokenizer.max_tokens` long, or `Tensors`; may be empty.
    settings: how the runtime is to run the rows; hashable, and None where there is no choice.
    row_settings: the same for each row by itself, in place of `settings`.
    input_tokens: what the input costs its caller.
    state: whatever `finish` needs again; stays in the worker.
    """

    rows: tuple[Any, ...]
    input_tokens: int
    state: Any = None
    settings: Hashable = None
    row_settings: tuple[Hashable, ...] = ()

    def settings_of(self, index: int) -> Hashable:
        return self.row_settings[index] if self.row_settings else self.settings


class OneShotTask(Protocol):
    """A task whose answer needs one forward pass per row."""

    def prepare(self, text: Any, parameters: Mapping[str, Any], tokenizer: Any) -> Prepared:
        """text: the caller's, or his inputs where the task takes tensors. tokenizer: a
        `Tokenizer`; a task over pairs may rely on a `PairTokenizer`, one over tensors on nothing.

        Raises InputTooLong, or InvalidRequest naming the field.
        """

    def finish(
        self, prepared: Prepared, outputs: Sequence[Any], parameters: Mapping[str, Any]
    ) -> Answer:
        """outputs: what the runtime made of each of `prepared.rows`, in their order."""


@runtime_checkable
class FitsModel(Protocol):
    """A task that has to fit the graph that it was given, for instance one label per score."""

    def fit(self, signature: Signature) -> None:
        """Called once, before anything is prepared. Raises CannotLoad."""


@runtime_checkable
class ReadsModel(Protocol):
    """A task that needs something of the model's own files, for instance its chat template."""

    def read_model(self, files: Mapping[str, str]) -> None:
        """files: paths by role. Called once, before anything is prepared."""
