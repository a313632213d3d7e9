"""How routes appear in the OpenAPI document.

Routes read and write their JSON themselves, for strictness and speed; what FastAPI would have
found out by itself is said here.
"""

from typing import Any

from pydantic import BaseModel

from app.schemas.open_inference import V2Error
from app.schemas.response import EXAMPLE_ID, EXAMPLE_TIME, ErrorAnswer

Responses = dict[int | str, dict[str, Any]]

REF = "#/components/schemas/{model}"

_FAILURES: dict[int, tuple[str, str, str]] = {  # status: what it means, an example of it
    400: (
        "Not strict JSON, or a malformed header.",
        "invalid_json",
        "The body is not valid JSON: JSON is malformed: trailing characters (byte 14).",
    ),
    404: (
        "No such model or version.",
        "model_not_found",
        "There is no model 'sentimnt'; there are: embedder, generator, sentiment, summarizer.",
    ),
    408: (
        "The request did not arrive in time.",
        "request_timeout",
        "The body of the request did not arrive in time.",
    ),
    413: (
        "More bytes than the server takes (`body_too_large`), or more tokens than the model takes.",
        "input_too_long",
        "text has 300 tokens, at most 256 are taken; shorten it or set truncate.",
    ),
    415: (
        "The body is not declared as UTF-8 JSON.",
        "unsupported_media_type",
        "Content-Type is missing; send JSON as application/json.",
    ),
    421: (
        "The request names a host that is not in ALLOWED_HOSTS.",
        "misdirected",
        "The request names a host that this server does not answer for (ALLOWED_HOSTS).",
    ),
    422: (
        "A field is wrong, missing, unknown or out of bounds.",
        "invalid_request",
        "text is blank; send at least one visible character.",
    ),
    429: ("Too much waits already. See Retry-After.", "overloaded", "The queue is full."),
    431: (
        "The header is too large.",
        "header_too_large",
        "The request header has more than 32768 bytes or 256 fields.",
    ),
    500: (
        "Our fault: the log has the reason under the request id. Or `poison_input`: the model's "
        "process ended twice while it ran this input; do not send it again.",
        "internal",
        "The server failed; its log has the reason under this request id.",
    ),
    503: (
        "The version is loading, failed, restarting or unavailable. See Retry-After.",
        "model_unavailable",
        "The version is loading, failed, restarting or unavailable.",
    ),
    504: (
        "The deadline passed. The work was not run, or stopped.",
        "deadline_exceeded",
        "The deadline passed before the answer was ready.",
    ),
}

_REQUEST_ID = {
    "name": "X-Request-ID",
    "in": "header",
    "required": False,
    "description": "Your name for the request: 1 to 128 of `A-Za-z0-9._:-`; another one is made "
    "where it is absent or anything else. It comes back in the answer's header and body.",
    "schema": {"type": "string", "maxLength": 128, "pattern": "^[A-Za-z0-9._:-]+$"},
    "example": "order-4711",
}

_TIMEOUT = {
    "name": "X-Request-Timeout-Ms",
    "in": "header",
    "required": False,
    "description": "How long you will wait, in ms; each version has a default, see `/models`.",
    "schema": {"type": "number", "exclusiveMinimum": 0, "maximum": 3_600_000},
    "example": 2000,
}

_PRIORITY = {
    "name": "X-Priority",
    "in": "header",
    "required": False,
    "description": "How urgent it is. A better class goes first; what has waited for long is due a "
    "share beside it (docs/scheduling.md).",
    "schema": {
        "type": "string",
        "enum": ["interactive", "normal", "batch"],
        "default": "normal",
    },
    "example": "interactive",
}

_CALLER = {
    "name": "X-Caller-Id",
    "in": "header",
    "required": False,
    "description": "On whose behalf you ask, 1 to 64 of `A-Za-z0-9._:-`; your address where it is "
    "absent. Callers of one class share the server by tokens.",
    "schema": {"type": "string", "maxLength": 64, "pattern": "^[A-Za-z0-9._:-]+$"},
    "example": "shop-7",
}

_RETRY_AFTER = {
    "Retry-After": {
        "description": "Seconds until another try may succeed.",
        "schema": {"type": "integer", "minimum": 1},
        "example": 1,
    }
}


def documented(
    answer: type[BaseModel],
    *,
    body: type[BaseModel] | None = None,
    other: Responses | None = None,
    streams: bool = False,
) -> dict[str, Any]:
    """Arguments of a route. One with a body can fail in all the ways of inference."""
    responses: Responses = {
        200: {"model": answer, "description": "Done."},
        **(other or {}),
    }
    if streams:
        responses[200]["content"] = {"text/event-stream": {"schema": {"type": "string"}}}
    extra: dict[str, Any] = {"parameters": [_REQUEST_ID]}
    if body is not None:
        extra["parameters"] = [_REQUEST_ID, _TIMEOUT, _PRIORITY, _CALLER]
        schema = {"$ref": REF.format(model=body.__name__)}
        extra["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
        responses.update({status: _failure(status) for status in _FAILURES})
    return {
        "response_model": None,
        "responses": responses,
        "openapi_extra": extra,
    }


_V2_FAILURES = (400, 404, 413, 415, 429, 500, 503, 504)
_NOT_SUPPORTED = "Models are loaded when the server starts, and stay."
_JSON_LENGTH = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "required": False,
    "description": "Length of the JSON in bytes, where raw tensors follow it.",
    "schema": {"type": "integer", "minimum": 0},
    "example": 181,
}


def documented_v2(
    answer: type[BaseModel] | None,
    *,
    body: type[BaseModel] | None = None,
    failures: tuple[int, ...] = (),
    unready: type[BaseModel] | None = None,
) -> dict[str, Any]:
    """The same for a route of the Open Inference Protocol, whose failures have a shape of their
    own. unready: what 503 answers; answer: None where it is a list, or nothing ever."""
    responses: Responses = {200: {"description": "Done."}}
    if answer is not None:
        responses[200]["model"] = answer
    for status in _V2_FAILURES if body is not None else failures:
        responses[status] = {"model": V2Error, "description": _v2_words(status)}
    if unready is not None:
        responses[503] = {"model": unready, "description": "Not now."}
    extra: dict[str, Any] = {"parameters": [_REQUEST_ID]}
    if body is not None:
        extra["parameters"] = [_REQUEST_ID, _TIMEOUT, _PRIORITY, _CALLER, _JSON_LENGTH]
        schema = {"$ref": REF.format(model=body.__name__)}
        extra["requestBody"] = {
            "required": True,
            "content": {
                "application/json": {"schema": schema},
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            },
        }
    return {"response_model": None, "responses": responses, "openapi_extra": extra}


def _v2_words(status: int) -> str:
    if status == 501:
        return _NOT_SUPPORTED
    if status == 400:
        return "Not strict JSON, or a field is wrong, missing, unknown or out of bounds."
    return _FAILURES[status][0]


def _failure(status: int) -> dict[str, Any]:
    description, code, message = _FAILURES[status]
    example = {
        "success": False,
        "error": {"code": code, "message": message},
        "request_id": EXAMPLE_ID,
        "timestamp": EXAMPLE_TIME,
    }
    shown: dict[str, Any] = {
        "model": ErrorAnswer,
        "description": description,
        "content": {"application/json": {"example": example}},
    }
    return {**shown, "headers": _RETRY_AFTER} if status in (429, 503) else shown
