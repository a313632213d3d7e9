"""How routes appear in the OpenAPI document.

Routes read and write their JSON themselves, for strictness and speed; what FastAPI would have
found out by itself is said here.
"""

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from app.api.documented_parameters import INFERENCE, JSON_LENGTH, ONCE_KEY, REQUEST_ID
from app.api.documented_streams import REF, Payloads, event_stream
from app.schemas.open_inference import V2Error, V2InferBody
from app.schemas.response import EXAMPLE_ID, EXAMPLE_TIME, ErrorAnswer

Responses = dict[int | str, dict[str, Any]]

FAILURES: dict[int, tuple[str, str, str]] = {  # status: what it means, an example of it
    400: (
        "Not strict JSON, or a malformed header.",
        "invalid_json",
        "The body is not valid JSON: JSON is malformed: trailing characters (byte 14).",
    ),
    401: (
        "No API key, or one that is unknown, revoked or expired.",
        "unauthenticated",
        "The API key is unknown, revoked or expired.",
    ),
    403: (
        "The API key lacks the scope, or may not use the model.",
        "forbidden",
        "this API key may not use the model 'generator'",
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
    409: (
        "Something else has its place: an equal request that still runs, or another of its name.",
        "still_running",
        "The first request with this Idempotency-Key is still being answered; ask again later.",
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

ANYWHERE = (421, 431)  # told before it is known what was asked for; probes answer to any name

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
    body: type[BaseModel] | tuple[type[BaseModel], ...] | None = None,
    other: Responses | None = None,
    streams: Payloads | None = None,
    is_probe: bool = False,
    streams_only: bool = False,
    status: int = 200,
    parameters: list[dict[str, Any]] | None = None,
    failures: tuple[int, ...] = (),
    headers: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Arguments of a route. One with a body, or one of several, can fail in all the
    ways of inference.

    streams: what the events hold that may come in place of the answer, or always do. is_probe: any
    host's name will do. failures: further ones of a route without a body; parameters: in place of
    the usual ones; headers: of the answer.
    """
    responses: Responses = {
        status: (
            {"description": "Done."} if streams_only else {"model": answer, "description": "Done."}
        ),
        **(other or {}),
    }
    if streams is not None:
        responses[status]["content"] = event_stream(streams)
    if headers is not None:
        responses[status]["headers"] = headers
    extra: dict[str, Any] = {"parameters": parameters or [REQUEST_ID]}
    shown: Iterable[int] = (*_anywhere(is_probe), *failures)
    if body is not None:
        extra["parameters"] = parameters or INFERENCE
        bodies = body if isinstance(body, tuple) else (body,)
        schemas = [{"$ref": REF.format(model=each.__name__)} for each in bodies]
        schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
        extra["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
        has_key = ONCE_KEY in extra["parameters"]
        shown = [*failures, *(each for each in FAILURES if each != 409 or has_key)]
    responses.update({each: failure_shown(each) for each in shown})
    return {
        "response_model": None,
        "responses": responses,
        "openapi_extra": extra,
    }


_RAW = {"type": "string", "format": "binary"}
_V2_FAILURES = (400, 404, 408, 413, 415, 429, 500, 503, 504)
_V2_WORDS = {
    400: "Not strict JSON, or a field is wrong, missing, unknown or out of bounds.",
    403: "MODEL_CONTROL does not allow it.",
    409: "A later order for the same version has undone this one.",
}


def documented_v2(
    answer: Any,
    *,
    body: type[BaseModel] | None = None,
    failures: tuple[int, ...] = (),
    unready: type[BaseModel] | None = None,
    is_probe: bool = False,
) -> dict[str, Any]:
    """The same for a route of the Open Inference Protocol, whose failures have a shape of their
    own. unready: what 503 answers. A body may be left out, but for tensors."""
    takes_tensors = body is V2InferBody
    responses: Responses = {200: {"description": "Done.", "model": answer}}
    if takes_tensors:
        responses[200]["content"] = {"application/octet-stream": {"schema": _RAW}}
    failures = (*failures, *_anywhere(is_probe), *(_V2_FAILURES if body is not None else ()))
    for status in sorted(set(failures)):
        words = _V2_WORDS.get(status) or FAILURES[status][0]
        responses[status] = {"model": V2Error, "description": words, **headers_shown(status)}
    if unready is not None:
        responses[503] = {"model": unready, "description": "Not now."}
    extra: dict[str, Any] = {"parameters": [REQUEST_ID]}
    if body is not None:
        schema = {"$ref": REF.format(model=body.__name__)}
        content: dict[str, Any] = {"application/json": {"schema": schema}}
        if takes_tensors:
            extra["parameters"] = [*INFERENCE, JSON_LENGTH]
            content["application/octet-stream"] = {"schema": _RAW}
        extra["requestBody"] = {"required": takes_tensors, "content": content}
    return {"response_model": None, "responses": responses, "openapi_extra": extra}


def failure_shown(status: int) -> dict[str, Any]:
    description, code, message = FAILURES[status]
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
    return {**shown, **headers_shown(status)}


def headers_shown(status: int) -> dict[str, Any]:
    """What a failure has beside its body."""
    return {"headers": _RETRY_AFTER} if status in (429, 503) else {}


def _anywhere(is_probe: bool) -> tuple[int, ...]:
    return tuple(status for status in ANYWHERE if not (is_probe and status == 421))
