"""From results to the product's JSON. Plain functions; nothing here waits."""

from collections.abc import Iterator, Sequence
from typing import Any

from app.api.envelope import error_object, failure, timestamp
from app.api.errors import shown_to_caller
from app.core.errors import ServingError
from app.core.types import Done, Failed
from app.services.inference_service import InferenceResult


def success(result: InferenceResult, done: Done, request_id: str) -> dict[str, Any]:
    """The product's answer. What the task adds to metadata never hides what is ours."""
    usage = done.answer.usage
    return {
        "success": True,
        "result": done.answer.value,
        "model_used": result.model_used,
        "latency_ms": round(result.latency_ms, 3),
        "request_id": request_id,
        "timestamp": timestamp(),
        "metadata": {
            **done.answer.metadata,
            "model_type": result.model_type,
            "usage": {
                "input_tokens": usage.input_tokens,
                "output_tokens": usage.output_tokens,
                "total_tokens": usage.input_tokens + usage.output_tokens,
            },
            "queue_ms": round(done.timings.queue_ms, 3),
            "compute_ms": round(done.timings.compute_ms, 3),
            **({"cached": True} if done.is_cached else {}),
        },
    }


def batch(
    entries: Sequence[ServingError | None],
    results: Sequence[InferenceResult],
    request_id: str,
    latency_ms: float,
) -> dict[str, Any]:
    """entries: the error of each entry that was refused, None for those that were inferred."""
    inferred = iter(results)
    answers = [
        _entry(error, inferred, f"{request_id}-{index}") for index, error in enumerate(entries)
    ]
    succeeded = sum(answer["success"] for answer in answers)
    return {
        "success": succeeded == len(answers),
        "results": answers,
        "summary": {
            "total": len(answers),
            "succeeded": succeeded,
            "failed": len(answers) - succeeded,
        },
        "latency_ms": round(latency_ms, 3),
        "request_id": request_id,
        "timestamp": timestamp(),
    }


def _entry(
    error: ServingError | None, inferred: Iterator[InferenceResult], entry_id: str
) -> dict[str, Any]:
    if error is not None:
        return failure(error_object(error), entry_id)
    result = next(inferred)
    match result.outcome:
        case Done() as done:
            return success(result, done, entry_id)
        case Failed(error=problem):
            return failure(error_object(shown_to_caller(problem)), entry_id)
