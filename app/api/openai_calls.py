"""Bodies of OpenAI's routes, read as those read them, without a connection that waits."""

from collections.abc import Callable, Mapping
from typing import Any

from app.api import openai_generation, openai_responses, openai_texts
from app.api.openai_route import OpenAiCall, Wanted, find_in
from app.core.errors import InvalidRequest
from app.schemas.openai_common import OpenAiBody, parse_openai
from app.schemas.openai_generation import ChatBody, CompletionBody
from app.schemas.openai_responses import ResponsesBody
from app.schemas.openai_texts import ClassifyBody, EmbeddingsBody, RerankBody, ScoreBody
from app.schemas.request import Limits
from app.services.visible_models import Models

OPENAI: Mapping[str, tuple[type[OpenAiBody], Callable[[OpenAiCall[Any], Limits], Wanted]]] = {
    "/v1/chat/completions": (ChatBody, openai_generation.chat),
    "/v1/completions": (CompletionBody, openai_generation.completions),
    "/v1/responses": (ResponsesBody, openai_responses.responses),
    "/v1/embeddings": (EmbeddingsBody, openai_texts.embeddings),
    "/v1/classify": (ClassifyBody, openai_texts.classify),
    "/v1/rerank": (RerankBody, openai_texts.rerank),
    "/v1/score": (ScoreBody, openai_texts.score),
}


def read_openai(
    endpoint: str, body: Any, models: Models, limits: Limits
) -> tuple[OpenAiCall[Any], Wanted]:
    """Raises a CallerError for what is wrong with it."""
    kind, wanted_by = OPENAI[endpoint]
    parsed = parse_openai(kind, body)
    given = parsed.given()
    if given.get("stream"):
        raise no_stream()
    call = OpenAiCall(parsed, given, find_in(models, parsed.model))
    return call, wanted_by(call, limits)


def no_stream() -> InvalidRequest:
    return InvalidRequest("stream is for live requests; take it out")
