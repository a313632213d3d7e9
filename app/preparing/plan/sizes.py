"""How much disk and memory it takes to prepare and to serve a checkpoint: estimates."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from app.core.checkpoint import Precision
from app.preparing.job import Format
from app.preparing.plan.files import CONVERTED

_DTYPE_BYTES = {"float64": 8.0, "float32": 4.0, "float16": 2.0, "bfloat16": 2.0}
# Per weight, with the scales that quantised weights carry.
_PREPARED_BYTES: dict[Precision, float] = {"int8": 1.05, "int4": 0.6, "fp32": 4.0}
_TOKENIZER_BYTES = 20_000_000  # graph, vocabulary and tokenizer, beside the weights
# The original as float32 and the export beside it, and torch with its exporter.
_PREPARE_FACTOR, _PREPARE_BYTES = 2.2, 1_500_000_000
# Without an exporter the original alone is held in float32, and the graphs are made after it.
_DIRECT_FACTOR = 1.2
# The weights as the runtime lays them out, and a worker process with its buffers.
_SERVE_FACTOR, _SERVE_BYTES = 1.3, 250_000_000
_TORCH_BYTES = 600_000_000  # more than other workers: torch and transformers themselves


@dataclass(frozen=True, slots=True)
class Sizes:
    """prepared: on disk. draft: on disk beside the result while it is made."""

    prepared_bytes: int
    draft_bytes: int
    prepare_memory_bytes: int
    serve_memory_bytes: int


def sizes_of(
    format: Format,
    weights_bytes: int,
    config: Mapping[str, Any],
    runtime: str,
    precision: Precision,
) -> Sizes:
    """Only what it takes to serve, for what is served as it lies."""
    if format not in CONVERTED:
        return Sizes(0, 0, 0, int(weights_bytes * _SERVE_FACTOR) + _SERVE_BYTES)
    parameters = _parameters(weights_bytes, config)
    as_float32 = parameters * _DTYPE_BYTES["float32"]
    # A pickle's weights as safetensors, and an exporter's graph in float32.
    copied = weights_bytes if format == "pickle" else 0
    exported = int(as_float32) if runtime in ("openvino_encoder", "openvino_llm") else 0
    if runtime == "torch_reference":  # serves the original: nothing is made
        serve = int(as_float32 * _SERVE_FACTOR) + _SERVE_BYTES + _TORCH_BYTES
        return Sizes(0, copied, 0, serve)
    prepared = int(parameters * _PREPARED_BYTES[precision]) + _TOKENIZER_BYTES
    factor = _DIRECT_FACTOR if runtime == "openvino_seq2seq" else _PREPARE_FACTOR
    return Sizes(
        prepared_bytes=prepared,
        draft_bytes=copied + exported,
        prepare_memory_bytes=int(as_float32 * factor) + _PREPARE_BYTES,
        serve_memory_bytes=int(prepared * _SERVE_FACTOR) + _SERVE_BYTES,
    )


def _parameters(weights_bytes: int, config: Mapping[str, Any]) -> float:
    """Older checkpoints name no type: they are float32."""
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    return weights_bytes / _DTYPE_BYTES.get(dtype.removeprefix("torch."), 4.0)
