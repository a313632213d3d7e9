"""POST /v1/embeddings, /v1/rerank, /v1/score and /v1/classify."""

import time
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from app.api.deps import settings_of
from app.api.openai_documented import documented_openai
from app.api.openai_route import OpenAiCall, OpenAiRoute, answered, infer, read_call
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
from app.services import openai_texts
from app.services.openai_generation import new_id, usage_of

router = APIRouter(tags=["openai"], route_class=OpenAiRoute)


@router.post("/v1/embeddings", **documented_openai(EmbeddingsAnswer, body=EmbeddingsBody))
async def openai_embeddings(request: Request) -> Response:
    """Vectors of texts, in their order."""
    settings = settings_of(request)
    # Somebody's token ids are many values; they are refused with a word of advice.
    call = await read_call(request, EmbeddingsBody, values=settings.max_tensor_values)
    openai_texts.require_task(call.found, "embed")
    answers = await _each(request, call, call.body.input)
    as_base64 = call.body.encoding_format == "base64"
    shown = openai_texts.embeddings_answer(answers, _key(call), as_base64=as_base64)
    return answered(request, shown)


@router.post("/v1/classify", **documented_openai(ClassifyAnswer, body=ClassifyBody))
async def openai_classify(request: Request) -> Response:
    """Labels of texts, in their order."""
    call = await read_call(request, ClassifyBody)
    openai_texts.require_task(call.found, "classify")
    answers = await _each(request, call, call.body.input)
    shown = {**_head("classify", call), "data": openai_texts.classified(answers)}
    return answered(request, {**shown, "usage": usage_of(answers)})


@router.post("/v1/rerank", **documented_openai(RerankAnswer, body=RerankBody))
async def openai_rerank(request: Request) -> Response:
    """Put documents in order, by how well they answer a query.

    `meta.scoring` says whether a reranker judged, or cosines of an embedder's vectors.
    """
    call = await read_call(request, RerankBody)
    openai_texts.require_task(call.found, "rerank", "embed")
    most = settings_of(request).max_request_items
    texts = texts_of(openai_texts.document_texts(call.body.documents), "documents", most)
    pairs = [(call.body.query, text) for text in texts]
    scores, answers = await _scores(request, call, pairs, ("query", "documents"))
    results = openai_texts.rerank_results(
        scores, texts, call.body.top_n, with_documents=bool(call.body.return_documents)
    )
    meta = {
        "api_version": {"version": openai_texts.API_VERSION},
        "billed_units": {"search_units": 1},
        "scoring": openai_texts.scoring_of(call.found),
    }
    shown = {"id": new_id("rerank"), "model": _key(call), "results": results, "meta": meta}
    return answered(request, {**shown, "usage": usage_of(answers)})


@router.post("/v1/score", **documented_openai(ScoreAnswer, body=ScoreBody))
async def openai_score(request: Request) -> Response:
    """How well the second text goes with the first, pair by pair."""
    call = await read_call(request, ScoreBody)
    openai_texts.require_task(call.found, "rerank", "embed")
    most = settings_of(request).max_request_items
    first = texts_of(call.body.text_1, "text_1", most)
    second = texts_of(call.body.text_2, "text_2", most)
    pairs = openai_texts.pairs_of(first, second)
    scores, answers = await _scores(request, call, pairs, ("text_1", "text_2"))
    data = [
        {"index": index, "object": "score", "score": score} for index, score in enumerate(scores)
    ]
    shown = {**_head("score", call), "scoring": openai_texts.scoring_of(call.found), "data": data}
    return answered(request, {**shown, "usage": usage_of(answers)})


async def _each(request: Request, call: OpenAiCall[Any], given: str | list[Any]) -> list[Answer]:
    settings = settings_of(request)
    texts = texts_of(given, "input", settings.max_request_items)
    wanted = openai_texts.requests_of(
        call.found, texts, "input", call.given, settings.max_text_chars
    )
    return await infer(request, call, wanted)


async def _scores(
    request: Request,
    call: OpenAiCall[Any],
    pairs: Sequence[tuple[str, str]],
    fields: tuple[str, str],
) -> tuple[list[float], list[Answer]]:
    max_chars = settings_of(request).max_text_chars
    wanted = openai_texts.requests_of_pairs(call.found, pairs, fields, max_chars)
    answers = await infer(request, call, wanted)
    return openai_texts.scores_of_pairs(call.found, pairs, answers), answers


def _key(call: OpenAiCall[Any]) -> str:
    return f"{call.found.name}:{call.found.version}"


def _head(prefix: str, call: OpenAiCall[Any]) -> dict[str, Any]:
    head = {"id": new_id(prefix), "object": "list", "created": int(time.time())}
    return {**head, "model": _key(call)}
