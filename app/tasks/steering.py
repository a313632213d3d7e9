"""What only a runtime can do that chooses tokens from the logits itself: `min_p`, `logit_bias`,
`logprobs` and `json_schema`. Others refuse them by name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from app.core.errors import InvalidRequest
from app.core.inference import Generated, Sampling, SteeredTokenizer, TokenLogprob, Tokenizer

NEUTRAL: Mapping[str, Any] = {
    "min_p": 0,
    "logit_bias": None,
    "logprobs": None,
    "json_schema": None,
}
MOST_BIASED = 1024
MOST_BIAS = 100

MOST_TEXTS = 16_384  # of tokens that are kept

Decode = Callable[[Sequence[int]], str]
TokenText = Callable[[int], str]


def steer(sampling: Sampling, parameters: Mapping[str, Any], tokenizer: Tokenizer) -> Sampling:
    """With what the request wants of the four. Raises InvalidRequest naming the field."""
    wanted = [name for name in NEUTRAL if parameters.get(name) not in (NEUTRAL[name], {})]
    if not wanted:
        return sampling
    for name in wanted:
        if not isinstance(tokenizer, SteeredTokenizer):
            raise InvalidRequest(f"parameters.{name} is not supported by this version's runtime")
        if sampling.beams > 1:
            raise InvalidRequest(
                f"parameters.{name} does not go with parameters.num_beams above 1; "
                "leave one of them out"
            )
    schema = parameters.get("json_schema")
    if schema is not None:
        _check_schema(schema, tokenizer)
    return replace(
        sampling,
        min_p=parameters.get("min_p") or 0.0,
        logit_bias=_biases(parameters.get("logit_bias") or {}, tokenizer),
        logprobs=parameters.get("logprobs"),
        json_schema=schema,
    )


def token_texts(decode: Decode) -> TokenText:
    """Text of single tokens. Kept, because the likeliest tokens are mostly the same few."""
    return lru_cache(MOST_TEXTS)(lambda token: decode([token]))


def told(generated: Sequence[Generated], decode: Decode) -> list[list[dict[str, Any]]]:
    """What `metadata.logprobs` says of each text. A token that ended a text and is not part of it
    is left out."""
    text_of = token_texts(decode)
    return [_of_text(text, text_of) for text in generated]


def entries_of(
    token_ids: Sequence[int], logprobs: Sequence[TokenLogprob], text_of: TokenText
) -> list[dict[str, Any]]:
    """Token by token: `token`, `logprob`, and in `top` the likeliest as pairs of both."""
    return [
        {
            "token": text_of(token),
            "logprob": said.logprob,
            "top": [[text_of(other), logprob] for other, logprob in said.top],
        }
        for token, said in zip(token_ids, logprobs, strict=True)
    ]


def _of_text(text: Generated, text_of: TokenText) -> list[dict[str, Any]]:
    return without_end(entries_of(text.token_ids, text.logprobs, text_of), text.finish_reason)


def without_end(entries: list[dict[str, Any]], finish_reason: str) -> list[dict[str, Any]]:
    """entries: the last ones of a text that has ended."""
    has_end = finish_reason == "stop" and bool(entries) and not entries[-1]["token"]
    return entries[:-1] if has_end else entries


def _check_schema(schema: str, tokenizer: Tokenizer) -> None:
    if isinstance(tokenizer, SteeredTokenizer):
        try:
            tokenizer.check_schema(schema)
        except InvalidRequest as refused:
            raise InvalidRequest(f"parameters.json_schema: {refused}") from refused


def _biases(given: Mapping[str, Any], tokenizer: Tokenizer) -> tuple[tuple[int, float], ...]:
    if len(given) > MOST_BIASED:
        raise InvalidRequest(
            f"parameters.logit_bias names {len(given)} tokens, at most {MOST_BIASED} are taken"
        )
    vocabulary = getattr(tokenizer, "vocabulary", 0)
    return tuple(_bias(name, value, vocabulary) for name, value in given.items())


def _bias(name: str, value: Any, vocabulary: int) -> tuple[int, float]:
    digits = name.isascii() and name.isdigit() and len(name) < 10
    if not digits or int(name) >= vocabulary:
        raise InvalidRequest(
            f"parameters.logit_bias names {name[:20]!r}, which is no token id from 0 to "
            f"{vocabulary - 1}"
        )
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not -MOST_BIAS <= value <= MOST_BIAS:
        raise InvalidRequest(
            f"parameters.logit_bias of token {name} must be a number from -{MOST_BIAS} to "
            f"{MOST_BIAS}"
        )
    return int(name), float(value)
