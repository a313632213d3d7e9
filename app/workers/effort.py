"""What an input will cost its model, as far as that can be told at the door: in characters of text
that is read, four of which stand for a token."""

from collections.abc import Mapping
from typing import Any

from app.core.texts import count_chars

CHARS_PER_TOKEN = 4
WRITTEN_TOKENS = 50  # where nobody says how many at most, as in tasks/parameters.py


def effort_of(
    text: str, parameters: Mapping[str, Any], inputs: Mapping[str, Any] | None = None
) -> float:
    """parameters: complete. Tensors count as one: what their dimensions cost is not known."""
    chars = count_chars(inputs["messages"]) if inputs and "messages" in inputs else len(text)
    if "max_new_tokens" not in parameters:
        return float(chars or 1)
    texts = parameters.get("num_return_sequences") or 1
    return float(chars + CHARS_PER_TOKEN * texts * _written(chars, parameters))


def _written(chars: int, parameters: Mapping[str, Any]) -> float:
    """Tokens of a continuation, at most."""
    if (both := parameters.get("max_length")) is not None:
        return max(1.0, float(both) - chars / CHARS_PER_TOKEN)
    return float(parameters["max_new_tokens"] or WRITTEN_TOKENS)
