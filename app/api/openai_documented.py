"""How OpenAI's routes appear in the OpenAPI document."""

from typing import Any

from pydantic import BaseModel

from app.api.documented import Responses, documented
from app.api.documented_streams import REF, Payloads
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
) -> dict[str, Any]:
    """As `documented`, whose failures have another shape here."""
    shown = documented(answer, body=body, streams=streams)
    responses: Responses = shown["responses"]
    if body is None:
        responses[404] = {"description": "No such model or version."}
    for status, response in responses.items():
        if status == 200:
            continue
        response["model"] = OpenAiError
        response.pop("content", None)
    if body is None:
        return shown
    responses[200]["headers"] = _IGNORED
    schema = {"$ref": REF.format(model=body.__name__)}
    shown["openapi_extra"]["requestBody"]["content"] = {"application/json": {"schema": schema}}
    return shown
