"""How OpenAI's routes appear in the OpenAPI document."""

from typing import Any

from pydantic import BaseModel

from app.api.documented import Responses, documented
from app.api.documented_parameters import CALLER, REQUEST_ID, query
from app.api.documented_streams import REF, Payloads
from app.schemas.openai_batches import (
    EXAMPLE_BATCH,
    EXAMPLE_FILE,
    FileForm,
    OpenAiBatchBody,
)
from app.schemas.openai_common import OpenAiError

_IGNORED = {
    "X-Ignored-Fields": {
        "description": "Fields of the request that are unknown here and were without effect.",
        "schema": {"type": "string"},
    }
}


def documented_openai(
    answer: type[BaseModel],
    *,
    body: type[BaseModel] | None = None,
    streams: Payloads | None = None,
    content: dict[str, Any] | None = None,
    form: type[BaseModel] | None = None,
    parameters: list[dict[str, Any]] | None = None,
    failures: dict[int, str] | None = None,
) -> dict[str, Any]:
    """As `documented`, whose failures have another shape here.

    form: what is sent as one, in place of a body; content: of an answer that is not JSON;
    failures: of a route without a body, beside which others may be.
    """
    shown = documented(answer, body=body, streams=streams, parameters=parameters)
    responses: Responses = shown["responses"]
    if body is None and failures is None:
        failures = {404: "No such model or version."}
    for failure, words in (failures or {}).items():
        responses[failure] = {"description": words}
    for status, response in responses.items():
        if status == 200:
            continue
        response["model"] = OpenAiError
        response.pop("content", None)
    extra = shown["openapi_extra"]
    if body is not None:
        responses[200]["headers"] = _IGNORED
        extra["requestBody"]["content"] = {"application/json": {"schema": _ref(body)}}
    if form is not None:
        responses[200]["headers"] = _IGNORED
        sent = {"multipart/form-data": {"schema": _ref(form)}}
        extra["requestBody"] = {"required": True, "content": sent}
    if content is not None:
        responses[200] = {"description": "Done.", "content": content}
    return shown


def _ref(model: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": REF.format(model=model.__name__)}


_OWN = [REQUEST_ID, CALLER]
_COMMON = {422: "A field is wrong or out of bounds.", 503: "The database or disk cannot be used."}
_NO_FILE = {404: "You have no such file.", **_COMMON}


def _paged(what: str, example: str, usual: int, most: int) -> list[dict[str, Any]]:
    limit = {"type": "integer", "minimum": 1, "maximum": most, "default": usual}
    after = {"type": "string", "pattern": f"^{example[:-32]}[0-9a-f]{{32}}$"}
    return [
        *_OWN,
        query("limit", f"Most {what} to be answered.", limit, usual),
        query("after", "Where to go on: `last_id` of the page before.", after, example),
    ]


_ORDER = {"type": "string", "enum": ["asc", "desc"], "default": "desc"}
_PURPOSE = {"type": "string", "enum": ["batch", "batch_output"]}

UPLOAD: dict[str, Any] = {
    "form": FileForm,
    "parameters": _OWN,
    "failures": {
        400: "The form cannot be read.",
        408: "The form did not arrive in time.",
        413: "The file is larger than MAX_FILE_BYTES, or with it your files than "
        "MAX_CALLER_FILES_BYTES (`caller_files_full`).",
        415: "The body is not declared as a form.",
        **_COMMON,
    },
}
FILES: dict[str, Any] = {
    "failures": _COMMON,
    "parameters": [
        *_paged("files", EXAMPLE_FILE, 10_000, 10_000),
        query("order", "By their time.", _ORDER, "desc"),
        query("purpose", "Only files with this purpose.", _PURPOSE, "batch"),
    ],
}
FILE: dict[str, Any] = {
    "parameters": _OWN,
    "failures": {**_NO_FILE, 409: "A batch that has not ended reads it."},
}
CONTENT: dict[str, Any] = {
    "parameters": _OWN,
    "failures": _NO_FILE,
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
}
NEW_BATCH: dict[str, Any] = {"body": OpenAiBatchBody, "parameters": _OWN}
BATCHES: dict[str, Any] = {
    "failures": _COMMON,
    "parameters": _paged("batches", EXAMPLE_BATCH, 20, 100),
}
BATCH: dict[str, Any] = {
    "parameters": _OWN,
    "failures": {
        404: "You have no such batch.",
        409: "It is past the point where it could be cancelled.",
        **_COMMON,
    },
}
