"""Which tasks exist and what parameters they take. Light: imports no task and no library.

The parent validates parameters with this table; the worker builds the task from it.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from app.core.errors import CannotLoad
from app.core.parameters import Parameter

TRUNCATE = Parameter(
    "truncate", "boolean", False, "Cut an input that is too long instead of refusing it."
)


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """model_type: what `metadata.model_type` says; shape: which kind of worker loop runs it."""

    name: str
    model_type: str
    shape: Literal["one_shot", "generating"]
    implementation: str
    parameters: tuple[Parameter, ...]


TASKS: dict[str, TaskInfo] = {
    info.name: info
    for info in (
        TaskInfo("embed", "embedder", "one_shot", "app.tasks.embed:Embed", (TRUNCATE,)),
        TaskInfo("classify", "classifier", "one_shot", "app.tasks.classify:Classify", (TRUNCATE,)),
        TaskInfo(
            "summarize",
            "summarizer",
            "one_shot",
            "app.tasks.summarize:Summarize",
            (
                Parameter(
                    "max_length",
                    "integer",
                    142,
                    "Most tokens in the summary. At least one sentence is always returned.",
                    minimum=1,
                    maximum=4096,
                ),
                Parameter(
                    "min_length",
                    "integer",
                    0,
                    "Fewest tokens in the summary, as far as the text has them.",
                    minimum=0,
                    maximum=4096,
                ),
            ),
        ),
        TaskInfo(
            "generate",
            "generator",
            "generating",
            "app.tasks.generate:Generate",
            (
                Parameter(
                    "max_length",
                    "integer",
                    None,
                    "Most tokens of prompt and continuation together.",
                    minimum=1,
                    maximum=8192,
                ),
                Parameter(
                    "max_new_tokens",
                    "integer",
                    None,
                    "Most tokens of the continuation; 50 where neither limit is given.",
                    minimum=1,
                    maximum=4096,
                ),
                Parameter(
                    "num_return_sequences",
                    "integer",
                    1,
                    "How many continuations; above 1 the result is a list.",
                    minimum=1,
                    maximum=8,
                ),
                Parameter(
                    "temperature",
                    "number",
                    0.7,
                    "Randomness of sampling; 0 takes the likeliest token each time.",
                    minimum=0,
                    maximum=2,
                ),
                Parameter(
                    "top_p",
                    "number",
                    0.95,
                    "Sample from the likeliest tokens that make up this probability.",
                    minimum=0.01,
                    maximum=1,
                ),
                Parameter(
                    "top_k",
                    "integer",
                    None,
                    "Sample from this many of the likeliest tokens; null: all.",
                    minimum=1,
                    maximum=1000,
                ),
                Parameter(
                    "seed",
                    "integer",
                    None,
                    "Same seed and request, same text; null: a fresh seed, told in metadata.",
                    minimum=0,
                    maximum=2**53 - 1,
                ),
                Parameter(
                    "stop",
                    "strings",
                    (),
                    "Texts that end the continuation; they are not part of it.",
                    max_items=4,
                    max_length=100,
                ),
                Parameter(
                    "return_full_text",
                    "boolean",
                    False,
                    "Put the prompt in front of the continuation.",
                ),
            ),
        ),
    )
}


def task_info(name: str) -> TaskInfo:
    """Raises CannotLoad for a name that is not in the table."""
    try:
        return TASKS[name]
    except KeyError:
        raise CannotLoad(f"unknown task {name!r}; known: {', '.join(sorted(TASKS))}") from None


def build_task(name: str, **options: Any) -> Any:
    """The task itself, for the worker. Raises CannotLoad when its options do not fit."""
    module, _, attribute = task_info(name).implementation.partition(":")
    try:
        return getattr(import_module(module), attribute)(**options)
    except (TypeError, ValueError, OSError) as error:
        raise CannotLoad(f"task {name!r} does not start: {error}") from error
