"""What `/v1/embeddings`, `/v1/rerank`, `/v1/score` and `/v1/classify` take and give."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from app.schemas.openai_common import OpenAiBody, OpenAiUsage, Texts, taken

_DOCUMENT: dict[str, Any] = {
    "anyOf": [
        {"type": "string"},
        {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    ]
}
_USAGE = {"prompt_tokens": 9, "completion_tokens": 0, "total_tokens": 9}


class EmbeddingsBody(OpenAiBody):
    """Texts to turn into vectors."""

    model: str = Field(
        min_length=1, max_length=257, description="As elsewhere.", examples=["embedder"]
    )
    input: Texts = Field(
        description="One text or several; token ids are refused.", examples=[["a cat", "a dog"]]
    )
    encoding_format: Literal["float", "base64"] | None = taken(
        "`base64`: of little-endian float32.", "float"
    )
    dimensions: int | None = taken(
        "Shorter vectors, where the model was trained for that.", 384, ge=1
    )
    truncate: bool | None = taken("Cut what is too long instead of refusing it.", False)
    user: str | None = taken("Yours; without effect.", "u-1")


class RerankBody(OpenAiBody):
    """Documents to put in order, in Cohere's shape."""

    model: str = Field(
        min_length=1,
        max_length=257,
        description="A reranker, or an embedder, whose cosines are taken.",
        examples=["embedder"],
    )
    query: str = Field(description="What is asked.", examples=["How do I reset my password?"])
    documents: list[Any] = Field(
        description="Texts, or objects with `text`.",
        json_schema_extra={"items": _DOCUMENT, "minItems": 1},
        examples=[["Open Settings, then Security.", "We ship on Mondays."]],
    )
    top_n: int | None = taken("Only so many of the best.", 1, ge=1)
    return_documents: bool | None = taken("Put each document beside its score.", False)


class ScoreBody(OpenAiBody):
    """Pairs of texts to compare, in vLLM's shape."""

    model: str = Field(
        min_length=1,
        max_length=257,
        description="A reranker, or an embedder, whose cosines are taken.",
        examples=["embedder"],
    )
    text_1: Texts = Field(description="One text, or as many.", examples=["a cat"])
    text_2: Texts = Field(description="One or many.", examples=[["a dog", "a car"]])


class ClassifyBody(OpenAiBody):
    """Texts to label, in vLLM's shape."""

    model: str = Field(
        min_length=1, max_length=257, description="As elsewhere.", examples=["sentiment"]
    )
    input: Texts = Field(description="One text or several.", examples=["I love it."])
    truncate: bool | None = taken("Cut what is too long instead of refusing it.", False)


class EmbeddingsAnswer(BaseModel):
    """Vectors."""

    object: str = Field(description="Always `list`.", examples=["list"])
    data: list[dict[str, Any]] = Field(
        description="In the order of the input.",
        examples=[[{"object": "embedding", "index": 0, "embedding": [0.1, -0.2]}]],
    )
    model: str = Field(description="`name:version`.", examples=["embedder:v1"])
    usage: OpenAiUsage = Field(description="Tokens of the input.", examples=[_USAGE])


class RerankAnswer(BaseModel):
    """Documents in order."""

    id: str = Field(description="Of this answer.", examples=["rerank-5f0c6f6e"])
    model: str = Field(description="`name:version`.", examples=["embedder:v1"])
    results: list[dict[str, Any]] = Field(
        description="Best first.", examples=[[{"index": 0, "relevance_score": 0.61}]]
    )
    meta: dict[str, Any] = Field(
        description="Version of the shape, units, and `scoring`: how scores came about.",
        examples=[{"api_version": {"version": "2"}, "scoring": "cosine_of_embeddings"}],
    )
    usage: OpenAiUsage = Field(description="Tokens of the input.", examples=[_USAGE])


class ScoreAnswer(BaseModel):
    """Scores."""

    id: str = Field(description="Of this answer.", examples=["score-5f0c6f6e"])
    object: str = Field(description="Always `list`.", examples=["list"])
    created: int = Field(description="Unix time.", examples=[1767225600])
    model: str = Field(description="`name:version`.", examples=["embedder:v1"])
    scoring: str = Field(
        description="`model`, or `cosine_of_embeddings`.", examples=["cosine_of_embeddings"]
    )
    data: list[dict[str, Any]] = Field(
        description="One per pair.", examples=[[{"index": 0, "object": "score", "score": 0.66}]]
    )
    usage: OpenAiUsage = Field(description="Tokens of the input.", examples=[_USAGE])


class ClassifyAnswer(BaseModel):
    """Labels."""

    id: str = Field(description="Of this answer.", examples=["classify-5f0c6f6e"])
    object: str = Field(description="Always `list`.", examples=["list"])
    created: int = Field(description="Unix time.", examples=[1767225600])
    model: str = Field(description="`name:version`.", examples=["sentiment:v1"])
    data: list[dict[str, Any]] = Field(
        description="One per text; `probs` in the order of `labels`.",
        examples=[[{"index": 0, "label": "positive", "probs": [0.01, 0.01, 0.98]}]],
    )
    usage: OpenAiUsage = Field(description="Tokens of the input.", examples=[_USAGE])
