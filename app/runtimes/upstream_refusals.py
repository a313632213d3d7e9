"""What another server's refusal means for whoever asked us. Its own words stay in our log."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from app.core.errors import (
    InputTooLong,
    InvalidRequest,
    ModelUnavailable,
    Overloaded,
    ServingError,
)

TRIED_AGAIN = (429, 502, 503)
REFUSED_KEY = "its server refuses the key that it was sent"
FIELDS: Mapping[str, str] = {  # theirs to ours, where it is another one
    "max_tokens": "parameters.max_new_tokens",
    "max_completion_tokens": "parameters.max_new_tokens",
    "n": "parameters.num_return_sequences",
    "min_tokens": "parameters.min_new_tokens",
    "response_format": "parameters.json_schema",
    "messages": "inputs.messages",
    "tools": "inputs.tools",
    "prompt": "text",
    "input": "text",
    **{
        name: f"parameters.{name}"
        for name in (
            "temperature top_p top_k min_p frequency_penalty presence_penalty "
            "repetition_penalty seed stop dimensions"
        ).split()
    },
}
_TOO_LONG = re.compile(r"maximum context length|context_length|context size|too long", re.I)


class KeyRefused(ModelUnavailable):
    """The model's server refuses the key that it was sent."""


class Unreachable(ModelUnavailable):
    """The model's server does not answer; try again."""


def refusal_of(status: int, content: bytes) -> ServingError:
    """status: of an answer that is no success; content: as much as was read of it."""
    match status:
        case 400 | 422:
            return _about_the_request(content)
        case 401 | 403:
            return KeyRefused()
        case 404 | 405:
            return ModelUnavailable("the model's server does not know the model, or cannot do this")
        case 413:
            return InputTooLong("the input is longer than the model takes")
        case 429:
            return Overloaded("the model's server takes no more requests now", retry_after_s=2.0)
        case _ if 300 <= status < 400:
            return ModelUnavailable("the model's server sends us elsewhere, where we do not go")
        case _:
            return ModelUnavailable("the model's server failed; try again", retry_after_s=2.0)


def _about_the_request(content: bytes) -> ServingError:
    said = _error_in(content)
    text = f"{said.get('code')} {said.get('message')}"
    if _TOO_LONG.search(text):
        return InputTooLong("the input, with what is to be written, is longer than the model takes")
    field = FIELDS.get(str(said.get("param")))
    if field is None:
        return InvalidRequest("the model's server refuses the request; its log says why")
    return InvalidRequest(f"{field} is refused by the model's server")


def _error_in(content: bytes) -> Mapping[str, Any]:
    """`code`, `message` and `param` in the shapes of OpenAI, of old vLLM, and of FastAPI."""
    try:
        said: Any = msgspec.json.decode(content)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return {}
    if not isinstance(said, dict):
        return {}
    error = said.get("error", said)
    if not isinstance(error, dict):
        return {"message": error}
    details = error.get("detail")
    if isinstance(details, list) and details and isinstance(details[0], dict):
        where = details[0].get("loc")
        if isinstance(where, list) and len(where) > 1:
            return {"param": where[1], "message": details[0].get("msg")}
    return error
