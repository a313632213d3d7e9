"""What tasks take that another server answers: what its API has a field for, and no more."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from app.core.parameters import Parameter
from app.tasks.parameters import EMBED, GENERATE

MOST_TOKENS = 1_000_000
_ITS_OWN = "null: the server's own."
_SAME = ("num_return_sequences", "stop", "return_full_text")
# Fields of OpenAI's own API, then those that vLLM and its kin add.
_OPTIONAL: Mapping[str, str] = {
    "temperature": "Randomness of sampling; 0 takes the likeliest token each time; ",
    "top_p": "Sample from the likeliest tokens that make up this probability; ",
    "frequency_penalty": "Above 0, a token becomes less likely each time it comes; ",
    "presence_penalty": "Above 0, a token becomes less likely once it has come; ",
    "seed": "Same seed and request, same text, as far as the server keeps to it; ",
    "min_new_tokens": "Fewest tokens of the continuation before it may end; ",
    "top_k": "Sample from this many of the likeliest tokens; ",
    "min_p": "Sample from tokens at least this share as likely as the likeliest; ",
    "repetition_penalty": "Above 1, tokens of text and continuation become less likely; ",
}
_GENERATE = {parameter.name: parameter for parameter in GENERATE}

REMOTE_GENERATE: tuple[Parameter, ...] = (
    replace(
        _GENERATE["max_new_tokens"],
        description=f"Most tokens of the continuation; {_ITS_OWN}",
        maximum=MOST_TOKENS,
    ),
    *(_GENERATE[name] for name in _SAME),
    *(
        replace(_GENERATE[name], default=None, description=text + _ITS_OWN)
        for name, text in _OPTIONAL.items()
    ),
    replace(
        _GENERATE["json_schema"],
        description="Text of the JSON schema that the answer to a conversation has to fit; null: "
        "any text.",
    ),
)
REMOTE_EMBED: tuple[Parameter, ...] = (
    replace(
        next(parameter for parameter in EMBED if parameter.name == "dimensions"),
        description=f"Length of the vector; {_ITS_OWN}",
    ),
)
FIELDS: Mapping[str, str] = {
    "max_new_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    **{
        name: name
        for name in (
            "temperature top_p frequency_penalty presence_penalty seed top_k min_p "
            "repetition_penalty dimensions"
        ).split()
    },
}
"""Our parameters by the names that they have in OpenAI's API, or in vLLM's additions to it."""


def may_differ(parameters: Mapping[str, Any], generation: Mapping[str, Any]) -> bool:
    """Whether an equal request may be answered otherwise: unless the likeliest tokens are asked
    for, nobody here knows."""
    return bool(parameters["temperature"] != 0)
