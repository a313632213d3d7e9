"""What every task gives the worker: rows to run, and an answer made of their outputs.

A one-shot task turns one input into one or many rows (token ids). The worker runs the rows in
whatever batches suit the machine, beside rows of other items and other tasks over the same
weights, and hands the outputs back in order. Both functions are pure; neither sees a batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from app.core.inference import TokenIds, Tokenizer, Vectors
from app.core.types import Answer

__all__ = ["OneShotTask", "Prepared", "TokenIds", "Tokenizer", "Vectors"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """One input, ready to run.

    rows: token ids, each at most `Tokenizer.max_tokens` long; may be empty.
    input_tokens: what the input costs its caller.
    state: whatever `finish` needs again; stays in the worker.
    """

    rows: tuple[TokenIds, ...]
    input_tokens: int
    state: Any = None


class OneShotTask(Protocol):
    """A task whose answer needs one forward pass per row."""

    def prepare(self, text: str, parameters: Mapping[str, Any], tokenizer: Tokenizer) -> Prepared:
        """Raises InputTooLong, or InvalidRequest naming the field."""

    def finish(self, prepared: Prepared, outputs: Vectors, parameters: Mapping[str, Any]) -> Answer:
        """outputs: float32 [rows, width], in the order of `prepared.rows`."""
