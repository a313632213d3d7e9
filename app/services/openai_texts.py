"""Vectors, ranks, scores and labels in the shapes of OpenAI's, Cohere's and vLLM's clients.

A reranker scores pairs itself. An embedder in its place gives cosines of its vectors, which the
answer says (`scoring`).
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from app.core.errors import InvalidRequest
from app.core.texts import problem_of_text
from app.core.types import Answer
from app.services.inference_service import InferenceRequest
from app.services.model_service import ServedVersion
from app.services.openai_generation import usage_of
from app.services.openai_parameters import parameters_of

BY_MODEL, BY_COSINE = "model", "cosine_of_embeddings"
API_VERSION = "2"  # of Cohere's shape


def requests_of(
    found: ServedVersion,
    texts: Sequence[str],
    field: str,
    given: Mapping[str, Any],
    max_chars: int,
) -> list[InferenceRequest]:
    """One per text. Raises InvalidRequest that names the text."""
    key = f"{found.name}:{found.version}"
    parameters = parameters_of(given, found.parameters, key)
    for index, text in enumerate(texts):
        if (problem := problem_of_text(text, max_chars)) is not None:
            raise InvalidRequest(f"{field}.{index} {problem}")
    return [InferenceRequest(text, found.name, found.version, parameters) for text in texts]


def require_task(found: ServedVersion, *tasks: str) -> None:
    if found.task not in tasks:
        raise InvalidRequest(
            f"model {found.name}:{found.version} cannot do this, its task is {found.task}; "
            f"ask one whose task is {' or '.join(tasks)}"
        )


def embeddings_answer(answers: Sequence[Answer], model: str, *, as_base64: bool) -> dict[str, Any]:
    vectors = [_base64(answer.value) if as_base64 else answer.value for answer in answers]
    data = [
        {"object": "embedding", "index": index, "embedding": vector}
        for index, vector in enumerate(vectors)
    ]
    return {"object": "list", "data": data, "model": model, "usage": usage_of(answers)}


def _base64(vector: list[float]) -> str:
    return base64.b64encode(np.array(vector, "<f4").tobytes()).decode("ascii")


def document_texts(documents: Sequence[Any]) -> list[str]:
    """Cohere's clients send texts or objects."""
    texts = []
    for index, document in enumerate(documents):
        text = document.get("text") if isinstance(document, dict) else document
        if not isinstance(text, str):
            raise InvalidRequest(f"documents.{index} must be a text, or an object with text")
        texts.append(text)
    return texts


def pairs_of(first: Sequence[str], second: Sequence[str]) -> list[tuple[str, str]]:
    """One with all, or each with its own."""
    if len(first) not in (1, len(second)):
        raise InvalidRequest(
            f"text_1 has {len(first)} texts and text_2 {len(second)}; send one, or as many"
        )
    firsts = list(first) * (len(second) if len(first) == 1 else 1)
    return list(zip(firsts, second, strict=True))


def requests_of_pairs(
    found: ServedVersion, pairs: Sequence[tuple[str, str]], fields: tuple[str, str], max_chars: int
) -> list[InferenceRequest]:
    """A reranker: one per run of equal first texts. An embedder: one per text, equal ones once."""
    texts = {
        text: field
        for field, each in zip(fields, zip(*pairs, strict=True), strict=True)
        for text in each
    }
    for text, field in texts.items():
        if (problem := problem_of_text(text, max_chars)) is not None:
            raise InvalidRequest(f"{field} {problem}")
    if found.task == "embed":
        return [InferenceRequest(text, found.name, found.version, {}) for text in texts]
    return [
        InferenceRequest(first, found.name, found.version, {"documents": [s for _, s in group]})
        for first, group in groupby(pairs, key=lambda pair: pair[0])
    ]


def scores_of_pairs(
    found: ServedVersion, pairs: Sequence[tuple[str, str]], answers: Sequence[Answer]
) -> list[float]:
    """In the order of the pairs; answers: to `requests_of_pairs`."""
    if found.task == "embed":
        texts = dict.fromkeys(text for each in zip(*pairs, strict=True) for text in each)
        vectors = dict(zip(texts, (_unit(answer.value) for answer in answers), strict=True))
        return [float(np.clip(vectors[a] @ vectors[b], -1.0, 1.0)) for a, b in pairs]
    scores: list[float] = []
    for answer in answers:
        by_index = {entry["index"]: entry["score"] for entry in answer.value}
        scores += [by_index[index] for index in range(len(by_index))]
    return scores


def _unit(vector: Iterable[float]) -> Any:
    array = np.array(vector, np.float64)
    norm = np.linalg.norm(array)
    return array / norm if norm > 0 else array


def scoring_of(found: ServedVersion) -> str:
    return BY_COSINE if found.task == "embed" else BY_MODEL


def rerank_results(
    scores: Sequence[float], texts: Sequence[str], top_n: int | None, *, with_documents: bool
) -> list[dict[str, Any]]:
    """Best first; of equal ones the earlier."""
    order = sorted(range(len(scores)), key=lambda index: -scores[index])[:top_n]
    results: list[dict[str, Any]] = [
        {"index": index, "relevance_score": scores[index]} for index in order
    ]
    if with_documents:
        for result in results:
            result["document"] = {"text": texts[result["index"]]}
    return results


def classified(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    return [
        {
            "index": index,
            "label": answer.value,
            "probs": list(answer.metadata["scores"].values()),
            "labels": list(answer.metadata["scores"]),
            "num_classes": len(answer.metadata["scores"]),
        }
        for index, answer in enumerate(answers)
    ]
