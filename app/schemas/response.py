"""What callers get, as the API's documentation shows it.

Routes write these shapes themselves and do not validate their own answers; tests/api does.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

EXAMPLE_ID = "5f0c6f6e-3d5e-4c58-a9f1-0c2f5a1b7e90"
EXAMPLE_TIME = "2026-01-01T00:00:00.000Z"


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Usage(_Shape):
    """Tokens as the model's own tokenizer counts them."""

    input_tokens: int = Field(description="Tokens of the input.", examples=[14])
    output_tokens: int = Field(description="Tokens that were generated.", examples=[0])
    total_tokens: int = Field(description="Both together.", examples=[14])


class Metadata(_Shape):
    """About the answer. Tasks add fields of their own."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    model_type: str | None = Field(
        description="What kind of model answered: summarizer, classifier, generator, embedder, "
        "reranker, tensors.",
        examples=["classifier"],
    )
    usage: Usage = Field(description="Tokens in and out.")
    queue_ms: float = Field(description="Time that the input waited, in ms.", examples=[0.4])
    compute_ms: float = Field(description="Time that the model ran, in ms.", examples=[3.1])
    cached: Literal[True] | None = Field(
        default=None,
        description="Only there when the answer was kept from an earlier, equal request.",
        examples=[True],
    )
    confidence: float | None = Field(
        default=None, description="Classifiers: probability of the label.", examples=[0.98]
    )
    scores: dict[str, float] | None = Field(
        default=None,
        description="Classifiers: probability of every label, or of `top_k`.",
        examples=[{"negative": 0.01, "neutral": 0.01, "positive": 0.98}],
    )
    seed: int | None = Field(
        default=None,
        description="Generators: with this seed the same request gives the same text.",
        examples=[1234],
    )


class InferAnswer(_Shape):
    """One input, inferred."""

    success: Literal[True] = Field(description="Always true here.", examples=[True])
    result: str | list[str] | list[float] | list[dict[str, Any]] | dict[str, Any] = Field(
        description="Text, label or vector; a list of texts where several were asked for; "
        "rerankers: index and score of each document, best first; tensors: datatype, shape and "
        "data of each output.",
        examples=["positive", [{"index": 1, "score": 0.93}]],
    )
    model_used: str = Field(description="`name:version`.", examples=["sentiment:v1"])
    latency_ms: float = Field(
        description="From the parsed request to its answer, in ms.", examples=[4.2]
    )
    request_id: str = Field(
        description="Yours from X-Request-ID, or made. In the log lines, too.",
        examples=[EXAMPLE_ID],
    )
    timestamp: str = Field(description="When it was answered, UTC.", examples=[EXAMPLE_TIME])
    metadata: Metadata = Field(description="Usage, timings, and what the task adds.")


class Problem(_Shape):
    """One wrong field."""

    field: str = Field(description="Path of the field.", examples=["parameters.max_length"])
    problem: str = Field(description="What is wrong with it.", examples=["must be an integer"])


class ErrorObject(_Shape):
    """What went wrong."""

    code: str = Field(description="For programs; stable.", examples=["invalid_request"])
    message: str = Field(
        description="For people: the field, the limit and the remedy.",
        examples=["text is blank; send at least one visible character."],
    )
    details: list[Problem] | None = Field(
        default=None,
        description="All wrong fields, where there are several.",
        examples=[[{"field": "text", "problem": "is missing"}]],
    )
    retry_after_s: float | None = Field(
        default=None, description="When another try may succeed, in seconds.", examples=[1.5]
    )


class ErrorAnswer(_Shape):
    """A request, or an entry of a batch, that failed."""

    success: Literal[False] = Field(description="Always false here.", examples=[False])
    error: ErrorObject = Field(description="What went wrong.")
    request_id: str = Field(description="Yours, or made.", examples=[EXAMPLE_ID])
    timestamp: str = Field(description="When it was answered, UTC.", examples=[EXAMPLE_TIME])


class StreamPiece(_Shape):
    """What a text is longer by."""

    text: str = Field(description="The addition; all together are the text.", examples=[" river"])
    tokens: int = Field(description="How many tokens were written for it.", examples=[1])
    index: int = Field(description="Which text, where several were asked for.", examples=[0])


class StreamDone(InferAnswer):
    """The answer, without the text that was told in pieces."""

    result: Any = Field(
        default=None, description="Only where it is no text.", examples=[[0.12, -0.03]]
    )


class BatchSummary(_Shape):
    """How many entries there were, and what became of them."""

    total: int = Field(description="Entries.", examples=[2])
    succeeded: int = Field(description="Entries with a result.", examples=[2])
    failed: int = Field(description="Entries with an error.", examples=[0])


class BatchAnswer(_Shape):
    """Every entry with its own result or error, in the order of the request."""

    success: bool = Field(description="Whether every entry succeeded.", examples=[True])
    results: list[InferAnswer | ErrorAnswer] = Field(
        description="One per entry. Its request_id is the batch's, a dash and its index from 0."
    )
    summary: BatchSummary = Field(description="The count.")
    latency_ms: float = Field(description="Of the whole batch, in ms.", examples=[12.5])
    request_id: str = Field(description="Yours, or made.", examples=[EXAMPLE_ID])
    timestamp: str = Field(description="When it was answered, UTC.", examples=[EXAMPLE_TIME])


class HealthAnswer(_Shape):
    """How the server is."""

    status: Literal["starting", "healthy", "degraded", "stopping"] = Field(
        description="degraded: some versions cannot serve now.", examples=["healthy"]
    )
    version: str = Field(description="Of this server.", examples=["0.1.0"])
    uptime_s: float = Field(description="Since the start, in seconds.", examples=[3600.5])
    models: dict[str, dict[str, Any]] = Field(
        description="State of every version.", examples=[{"sentiment:v1": {"state": "ready"}}]
    )


class ProbeAnswer(_Shape):
    """Yes or no for an orchestrator, with the reasons for a no."""

    ok: bool = Field(description="Same as the status code.", examples=[True])
    reasons: list[str] = Field(
        description="Why not.", examples=[["sentiment:v1 is loading"]], default_factory=list
    )


class ModelsAnswer(_Shape):
    """What can be asked for."""

    default_model: str = Field(
        description="Who answers requests that name no model.", examples=["summarizer"]
    )
    models: list[dict[str, Any]] = Field(
        description="Every model with its versions: task, state and parameters.",
        examples=[
            [
                {
                    "name": "sentiment",
                    "default_version": "v1",
                    "versions": [{"version": "v1", "state": "ready", "task": "classify"}],
                }
            ]
        ],
    )


class IndexAnswer(_Shape):
    """Where everything is."""

    name: str = Field(description="Of this server.", examples=["ai-inference-backend"])
    version: str = Field(description="Of this server.", examples=["0.1.0"])
    routes: list[str] = Field(description="Method and path.", examples=[["POST /infer"]])


class MetricsAnswer(BaseModel):
    """Counters and distributions since the start, as JSON."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())
