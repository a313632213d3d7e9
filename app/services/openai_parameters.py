"""From OpenAI's names to the parameters that the model's task declares, and back in messages.

What a task does not declare is refused by name unless it asks for nothing (`n: 1`), so that a
runtime which learns something has to declare it and no more.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from app.core.errors import InvalidRequest, ServingError
from app.core.parameters import Parameter

OURS: Mapping[str, str] = {  # of two names for one thing the later wins
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "n": "num_return_sequences",
    "best_of": "num_return_sequences",
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "max_output_tokens": "max_new_tokens",
    "min_tokens": "min_new_tokens",
    "stop": "stop",
    "seed": "seed",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "repetition_penalty": "repetition_penalty",
    "logit_bias": "logit_bias",
    "logprobs": "logprobs",
    "response_format": "json_schema",
    "echo": "return_full_text",
    "dimensions": "dimensions",
    "truncate": "truncate",
}
ASKS_NOTHING: Mapping[str, tuple[Any, ...]] = {
    "min_p": (0,),
    "n": (1,),
    "best_of": (1,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "echo": (False,),
    "truncate": (False,),
    "top_k": (0, -1),
    "min_tokens": (0,),
}
SEED_MASK = 2**53 - 1  # seeds of 64 bits, negative ones too, are taken by their lowest 53
_FIELD = re.compile(r"^(?:parameters|inputs)\.(\w+)|^([a-z_0-9]+)(?:\.\d[\w.]*)?(?= )")


class UnsupportedParameter(InvalidRequest):
    """A parameter that this model does not take."""

    code = "unsupported_parameter"

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name} is not supported: {why}")
        self.param = name


def parameters_of(
    given: Mapping[str, Any], declared: Iterable[Parameter], model: str
) -> dict[str, Any]:
    """The task's parameters; values are checked by the service. Raises UnsupportedParameter."""
    known = {parameter.name for parameter in declared}
    made: dict[str, Any] = {}
    for name, ours in OURS.items():
        if name not in given:
            continue
        value = given[name]
        if ours in known:
            made[ours] = _value(name, value)
        elif value not in ASKS_NOTHING.get(name, ()):
            raise UnsupportedParameter(name, f"{model} cannot do it")
    return made


def _value(name: str, value: Any) -> Any:
    if name == "stop":
        return [value] if isinstance(value, str) else value
    if name == "seed":
        return value & SEED_MASK
    if name == "top_k":
        return max(value, 0)
    return value


def in_callers_words(error: ServingError, given: Iterable[str]) -> tuple[str, str | None]:
    """The message by the names that the caller used, and the field that it is about."""
    theirs = {OURS[name]: name for name in OURS if name in set(given)}
    message = re.sub(
        r"\b(?:parameters|inputs)\.(\w+)", lambda found: theirs.get(found[1], found[1]), str(error)
    )
    param = getattr(error, "param", None)
    if param is None and isinstance(error, InvalidRequest):
        found = _FIELD.match(str(error))
        name = (found[1] or found[2]) if found else None
        param = theirs.get(name, name) if name else None
    return message, param
