"""How likely each token was, in OpenAI's two shapes.

A task that declares `logprobs` tells them in its answer's metadata under the same name: for each
text a list with an entry per token, `{"token": text, "logprob": number, "top": [[text, number]]}`.
"""

import math
from collections.abc import Sequence
from typing import Any

from app.core.types import Answer


def logprobs_of(answer: Answer, texts: int) -> list[Any]:
    """What the task tells, text by text; None where it tells nothing."""
    told = answer.metadata.get("logprobs")
    if told is None:
        return [None] * texts
    return [told] if isinstance(answer.value, str) else list(told)


def mean_logprob(told: Sequence[dict[str, Any]]) -> float:
    """By which texts of different lengths are compared; one without tokens is the least."""
    return sum(entry["logprob"] for entry in told) / len(told) if told else -math.inf


def of_chat(told: Sequence[dict[str, Any]] | None) -> dict[str, Any] | None:
    if told is None:
        return None
    content = [
        {
            **_token(entry["token"], entry["logprob"]),
            "top_logprobs": [_token(text, logprob) for text, logprob in entry.get("top", ())],
        }
        for entry in told
    ]
    return {"content": content, "refusal": None}


def _token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def of_completion(told: Sequence[dict[str, Any]] | None, offset: int = 0) -> dict[str, Any] | None:
    """offset: characters in front of the first token."""
    if told is None:
        return None
    offsets, at = [], offset
    for entry in told:
        offsets.append(at)
        at += len(entry["token"])
    return {
        "tokens": [entry["token"] for entry in told],
        "token_logprobs": [entry["logprob"] for entry in told],
        "top_logprobs": [dict(entry.get("top", ())) for entry in told],
        "text_offset": offsets,
    }
