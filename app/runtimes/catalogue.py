"""Which runtimes exist, and what kinds of artefact each one loads. Light: imports no library."""

from importlib import import_module
from typing import Any

from app.core.checkpoint import Kind
from app.core.errors import CannotLoad

RUNTIMES: dict[str, dict[Kind, str]] = {
    "openvino_encoder": {
        "vectors": "app.runtimes.openvino_encoder:OpenVinoEncoder",
        "scores": "app.runtimes.openvino_encoder:OpenVinoScorer",
        "tensors": "app.runtimes.openvino_tensors:OpenVinoTensors",
    },
    "ctranslate2_seq2seq": {
        "sequences": "app.runtimes.ctranslate2_seq2seq:CTranslate2Seq2Seq",
    },
    "openvino_llm": {"tokens": "app.runtimes.openvino_paged:OpenVinoLlm"},
    "torch_reference": {
        "scores": "app.runtimes.torch_encoder:TorchScores",
        "vectors": "app.runtimes.torch_encoder:TorchVectors",
        "sequences": "app.runtimes.torch_seq2seq:TorchSeq2Seq",
        "tokens": "app.runtimes.torch_llm:TorchLlm",
    },
    "openvino_seq2seq": {"sequences": "app.runtimes.openvino_seq2seq:OpenVinoSeq2Seq"},
    "upstream": {"remote": "app.runtimes.upstream:Upstream"},
}
# Who loads a checkpoint when nobody is named: the first that takes its architecture.
PREFERRED: dict[Kind, tuple[str, ...]] = {
    "vectors": ("openvino_encoder",),
    "scores": ("openvino_encoder",),
    "tensors": ("openvino_encoder",),
    "sequences": ("openvino_seq2seq", "ctranslate2_seq2seq"),
    "tokens": ("openvino_llm",),
}


def kinds_of(runtime: str) -> tuple[Kind, ...]:
    """What the runtime loads, its usual kind first. Raises CannotLoad for an unknown name."""
    if runtime not in RUNTIMES:
        raise CannotLoad(f"unknown runtime {runtime!r}; known: {', '.join(sorted(RUNTIMES))}")
    return tuple(RUNTIMES[runtime])


def is_remote(runtime: str | None) -> bool:
    """Whether it loads nothing, because another server answers."""
    return runtime is not None and "remote" in RUNTIMES.get(runtime, {})


def runtime_class(name: str, kind: Kind) -> Any:
    """The adapter's class. Raises CannotLoad for an unknown pair or a missing library."""
    kinds = kinds_of(name)
    if kind not in kinds:
        raise CannotLoad(f"runtime {name!r} does not load {kind}; it loads: {', '.join(kinds)}")
    module, _, attribute = RUNTIMES[name][kind].partition(":")
    try:
        return getattr(import_module(module), attribute)
    except ModuleNotFoundError as missing:
        raise CannotLoad(f"runtime {name!r} needs the package {missing.name!r}") from missing
