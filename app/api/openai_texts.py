"""POST /v1/embeddings, /v1/rerank, /v1/score and /v1/classify."""

import time
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from app.api.deps import settings_of
from app.api.openai_documented import documented_openai
from app.api.openai_route import (
    OpenAiCall,
    OpenAiRoute,
    Wanted,
    answer,
    limits_of,
    read_call,
)
from app.core.types import Answer
from app.schemas.openai_common import texts_of
from app.schemas.openai_texts import (
    ClassifyAnswer,
    ClassifyBody,
    EmbeddingsAnswer,
    EmbeddingsBody,
    RerankAnswer,
    RerankBody,
    ScoreAnswer,
    ScoreBody,
)
from app.schemas.request import Limits
from app.services import openai_texts
from app.services.inference_service import InferenceRequest
from app.services.openai_generation import new_id, usage_of

router = APIRouter(tags=["openai"], route_class=OpenAiRoute)


@router.post("/v1/embeddings", **documented_openai(EmbeddingsAnswer, body=EmbeddingsBody))
async def openai_embeddings(request: Request) -> Response:
    """Vectors of texts, in their order."""
    settings = settings_of(request)
    # Somebody's token ids are many values; they are refused with a word of advice.
    call = await read_call(request, EmbeddingsBody, values=settings.max_tensor_values)
    return await answer(request, call, embeddings(call, limits_of(request)))


def embeddings(call: OpenAiCall[EmbeddingsBody], limits: Limits) -> Wanted:
    """Raises InvalidRequest, as the others below."""
    openai_texts.require_task(call.found, "embed")
    as_base64 = call.body.encoding_format == "base64"
    return Wanted(
        _each(call, call.body.input, limits),
        lambda answers: openai_texts.embeddings_answer(answers, call.key, as_base64=as_base64),
    )


@router.post("/v1/classify", **documented_openai(ClassifyAnswer, body=ClassifyBody))
async def openai_classify(request: Request) -> Response:
    """Labels of texts, in their order."""
    call = await read_call(request, ClassifyBody)
    return await answer(request, call, classify(call, limits_of(request)))


def classify(call: OpenAiCall[ClassifyBody], limits: Limits) -> Wanted:
    openai_texts.require_task(call.found, "classify")
    head = _head("classify", call)

    def shown(answers: list[Answer]) -> dict[str, Any]:
        return {**head, "data": openai_texts.classified(answers), "usage": usage_of(answers)}

    return Wanted(_each(call, call.body.input, limits), shown)


@router.post("/v1/rerank", **documented_openai(RerankAnswer, body=RerankBody))
async def openai_rerank(request: Request) -> Response:
    """Put documents in order, by how well they answer a query.

    `meta.scoring` says whether a reranker judged, or cosines of an embedder's vectors.
    """
    call = await read_call(request, RerankBody)
    return await answer(request, call, rerank(call, limits_of(request)))


def rerank(call: OpenAiCall[RerankBody], limits: Limits) -> Wanted:
    openai_texts.require_task(call.found, "rerank", "embed")
    given = openai_texts.document_texts(call.body.documents)
    texts = texts_of(given, "documents", limits.max_request_items)
    pairs = [(call.body.query, text) for text in texts]
    meta = {
        "api_version": {"version": openai_texts.API_VERSION},
        "billed_units": {"search_units": 1},
        "scoring": openai_texts.scoring_of(call.found),
    }

    def shown(answers: list[Answer]) -> dict[str, Any]:
        scores = openai_texts.scores_of_pairs(call.found, pairs, answers)
        results = openai_texts.rerank_results(
            scores, texts, call.body.top_n, with_documents=bool(call.body.return_documents)
        )
        head = {"id": new_id("rerank"), "model": call.key, "results": results, "meta": meta}
        return {**head, "usage": usage_of(answers)}

    return Wanted(_of_pairs(call, pairs, ("query", "documents"), limits), shown)


@router.post("/v1/score", **documented_openai(ScoreAnswer, body=ScoreBody))
async def openai_score(request: Request) -> Response:
    """How well the second text goes with the first, pair by pair."""
    call = await read_call(request, ScoreBody)
    return await answer(request, call, score(call, limits_of(request)))


def score(call: OpenAiCall[ScoreBody], limits: Limits) -> Wanted:
    openai_texts.require_task(call.found, "rerank", "embed")
    most = limits.max_request_items
    first = texts_of(call.body.text_1, "text_1", most)
    second = texts_of(call.body.text_2, "text_2", most)
    pairs = openai_texts.pairs_of(first, second)
    head = {**_head("score", call), "scoring": openai_texts.scoring_of(call.found)}

    def shown(answers: list[Answer]) -> dict[str, Any]:
        scores = openai_texts.scores_of_pairs(call.found, pairs, answers)
        data = [
            {"index": index, "object": "score", "score": score}
            for index, score in enumerate(scores)
        ]
        return {**head, "data": data, "usage": usage_of(answers)}

    return Wanted(_of_pairs(call, pairs, ("text_1", "text_2"), limits), shown)


def _each(call: OpenAiCall[Any], given: str | list[Any], limits: Limits) -> list[InferenceRequest]:
    texts = texts_of(given, "input", limits.max_request_items)
    return openai_texts.requests_of(call.found, texts, "input", call.given, limits.max_text_chars)


def _of_pairs(
    call: OpenAiCall[Any],
    pairs: Sequence[tuple[str, str]],
    fields: tuple[str, str],
    limits: Limits,
) -> list[InferenceRequest]:
    return openai_texts.requests_of_pairs(call.found, pairs, fields, limits.max_text_chars)


def _head(prefix: str, call: OpenAiCall[Any]) -> dict[str, Any]:
    head = {"id": new_id(prefix), "object": "list", "created": int(time.time())}
    return {**head, "model": call.key}
