"""What the tasks over one row share: an input becomes a row that the model takes, or an error."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.core.errors import InputTooLong, InvalidRequest, InvariantBroken
from app.tasks.base import Prepared, TokenIds, Tokenizer, Vectors


@dataclass(frozen=True, slots=True)
class RowState:
    """Whether the input was cut to make the row."""

    truncated: bool

    def metadata(self) -> dict[str, Any]:
        return {"truncated": True} if self.truncated else {}


def require_text(text: str) -> None:
    """Raises InvalidRequest for a text that says nothing."""
    if not text.strip():
        raise InvalidRequest("text must not be empty")


def cut(row: TokenIds, limit: int) -> TokenIds:
    """At most `limit` tokens; the last one stays, because it is the model's end mark."""
    return row if len(row) <= limit else [*row[: limit - 1], row[-1]]


def single_row(
    text: str, parameters: Mapping[str, Any], tokenizer: Tokenizer, taker: str
) -> Prepared:
    """The input as one row, cut where `parameters.truncate` allows it.

    taker: who refuses a longer input, for the message ("embedder").
    """
    require_text(text)
    (row,) = tokenizer.encode([text])
    limit = tokenizer.max_tokens
    if len(row) > limit and not parameters.get("truncate", False):
        raise InputTooLong(
            f"text has {len(row)} tokens, {taker} takes at most {limit}; "
            "shorten it or set parameters.truncate to true"
        )
    kept = cut(row, limit)
    return Prepared((kept,), input_tokens=len(kept), state=RowState(len(kept) < len(row)))


def single_vector(outputs: Sequence[Vectors]) -> Vectors:
    """The only row of the outputs. Raises InvariantBroken for numbers that JSON cannot hold."""
    vector: Vectors = outputs[0]
    if not np.isfinite(vector).all():
        raise InvariantBroken("the model returned a vector with numbers that are not finite")
    return vector
