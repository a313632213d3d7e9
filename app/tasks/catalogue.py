"""Which tasks exist, for which kind of artefact, and what parameters they take.

Light: imports no library, and of the tasks only what reads parameters. The parent validates
parameters with this table; the worker builds the task from it. One name may stand for several
tasks: summarizing is picking sentences with an encoder's vectors, and writing new ones with an
encoder-decoder.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from app.core.checkpoint import Kind
from app.core.errors import CannotLoad
from app.core.parameters import Parameter
from app.tasks import decoding, sampling
from app.tasks.parameters import (
    CLASSIFY,
    EMBED,
    EXTRACT,
    GENERATE,
    RERANK,
    TENSORS,
)
from app.tasks.remote_parameters import REMOTE_EMBED, REMOTE_GENERATE, may_differ
from app.tasks.writing_parameters import SUMMARIZE, TRANSLATE


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """model_type: what `metadata.model_type` says; shape: which kind of worker loop runs it;
    takes: the field of a request that holds its input; chats: whether `inputs` with messages, a
    conversation, may stand in place of text; draws: whether tokens are drawn at random,
    by a request's parameters and the checkpoint's generation defaults, None where they never are.
    """

    name: str
    kind: Kind
    model_type: str
    shape: Literal["one_shot", "generating", "remote"]
    implementation: str
    parameters: tuple[Parameter, ...]
    takes: Literal["text", "inputs"] = "text"
    chats: bool = False
    draws: Callable[[Mapping[str, Any], Mapping[str, Any]], bool] | None = None


_ALL = (
    TaskInfo("embed", "vectors", "embedder", "one_shot", "app.tasks.embed:Embed", EMBED),
    TaskInfo(
        "classify", "vectors", "classifier", "one_shot", "app.tasks.classify:Classify", CLASSIFY
    ),
    TaskInfo(
        "classify",
        "scores",
        "classifier",
        "one_shot",
        "app.tasks.classify:ClassifyScores",
        CLASSIFY,
    ),
    TaskInfo("rerank", "scores", "reranker", "one_shot", "app.tasks.rerank:Rerank", RERANK),
    TaskInfo(
        "tensors",
        "tensors",
        "tensors",
        "one_shot",
        "app.tasks.tensors:RunTensors",
        TENSORS,
        "inputs",
    ),
    TaskInfo(
        "summarize", "vectors", "summarizer", "one_shot", "app.tasks.summarize:Summarize", EXTRACT
    ),
    TaskInfo(
        "summarize",
        "sequences",
        "summarizer",
        "one_shot",
        "app.tasks.summarize_text:SummarizeText",
        SUMMARIZE,
        draws=decoding.draws,
    ),
    TaskInfo(
        "translate",
        "sequences",
        "translator",
        "one_shot",
        "app.tasks.translate:Translate",
        TRANSLATE,
        draws=decoding.draws,
    ),
    TaskInfo(
        "generate",
        "tokens",
        "generator",
        "generating",
        "app.tasks.generate:Generate",
        GENERATE,
        chats=True,
        draws=sampling.draws,
    ),
    TaskInfo(
        "generate",
        "remote",
        "generator",
        "remote",
        "app.tasks.remote_generate:RemoteGenerate",
        REMOTE_GENERATE,
        chats=True,
        draws=may_differ,
    ),
    TaskInfo(
        "embed",
        "remote",
        "embedder",
        "remote",
        "app.tasks.remote_embed:RemoteEmbed",
        REMOTE_EMBED,
    ),
)
TASKS: dict[tuple[str, Kind], TaskInfo] = {(info.name, info.kind): info for info in _ALL}


def task_kinds(name: str) -> tuple[Kind, ...]:
    """Kinds of artefact that can serve the task. Raises CannotLoad for an unknown name."""
    kinds = tuple(kind for task, kind in TASKS if task == name)
    if not kinds:
        known = ", ".join(sorted({task for task, _ in TASKS}))
        raise CannotLoad(f"unknown task {name!r}; known: {known}")
    return kinds


def checkpoint_kind(name: str) -> Kind:
    """The kind of artefact that a whole checkpoint becomes for the task: the one that needs no
    further file. Raises CannotLoad for an unknown name.
    """
    kinds = [kind for kind in task_kinds(name) if kind != "remote"]
    return next((kind for kind in kinds if kind != "vectors"), kinds[0])


def task_info(name: str, kind: Kind) -> TaskInfo:
    """Raises CannotLoad for a task that is not in the table, or not for this kind of artefact."""
    kinds = task_kinds(name)
    if kind not in kinds:
        raise CannotLoad(
            f"task {name!r} needs an artefact that gives {' or '.join(kinds)}, not {kind}"
        )
    return TASKS[name, kind]


def build_task(name: str, kind: Kind, **options: Any) -> Any:
    """The task itself, for the worker. Raises CannotLoad when its options do not fit."""
    module, _, attribute = task_info(name, kind).implementation.partition(":")
    try:
        return getattr(import_module(module), attribute)(**options)
    except (TypeError, ValueError, OSError) as error:
        raise CannotLoad(f"task {name!r} does not start: {error}") from error
