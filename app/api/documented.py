"""How routes appear in the OpenAPI document.

Routes read and write their JSON themselves, for strictness and speed; what FastAPI would have
found out by itself is said here.
"""

from typing import Any

from pydantic import BaseModel

from app.api.envelope import JsonResponse
from app.schemas.response import ErrorAnswer

Responses = dict[int | str, dict[str, Any]]

REF = "#/components/schemas/{model}"

_FAILURES = {
    400: "Not JSON, or a malformed header: `invalid_json`, `invalid_request`.",
    404: "No such model or version: `model_not_found`; the message lists what exists.",
    408: "The body did not arrive in time: `request_timeout`.",
    413: "`body_too_large`, or `input_too_long` for the model.",
    415: "The body is not declared as JSON: `unsupported_media_type`.",
    422: "A field is wrong, missing, unknown or out of bounds: `invalid_request`.",
    429: "The queue is full: `overloaded`. See Retry-After.",
    431: "The request header is too large: `header_too_large`.",
    500: "Our fault: `internal`. The log has the reason under the request id.",
    503: "The version is loading, failed or restarting: `model_unavailable`. See Retry-After.",
    504: "The deadline passed: `deadline_exceeded`. The work was not run, or stopped.",
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
) -> dict[str, Any]:
    """Arguments of a route. One with a body can fail in all the ways of inference."""
    responses: Responses = {200: {"model": answer}, **(other or {})}
    extra: dict[str, Any] = {"parameters": [_REQUEST_ID]}
    if body is not None:
        extra["parameters"] = [_REQUEST_ID, _TIMEOUT]
        schema = {"$ref": REF.format(model=body.__name__)}
        extra["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
        responses.update({status: _failure(status) for status in _FAILURES})
    return {
        "response_class": JsonResponse,
        "response_model": None,
        "responses": responses,
        "openapi_extra": extra,
    }


def _failure(status: int) -> dict[str, Any]:
    shown: dict[str, Any] = {"model": ErrorAnswer, "description": _FAILURES[status]}
    return {**shown, "headers": _RETRY_AFTER} if status in (429, 503) else shown
