"""all-MiniLM-L6-v2 in float32 with numpy alone: what every engine is compared with."""

import json
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
HEADS, EPSILON = 12, 1e-12


def read_safetensors(blob: bytes) -> dict[str, Array]:
    """Names to arrays; float32 only, which is what this checkpoint has."""
    size = int.from_bytes(blob[:8], "little")
    table = json.loads(blob[8 : 8 + size])
    body = memoryview(blob)[8 + size :]
    return {
        name: np.frombuffer(body[slice(*entry["data_offsets"])], np.float32).reshape(entry["shape"])
        for name, entry in table.items()
        if name != "__metadata__" and entry["dtype"] == "F32"
    }


class Reference:
    """One row at a time: no padding, no mask, nothing to get wrong."""

    def __init__(self, weights: dict[str, Array]) -> None:
        self._weights = weights
        self._erf = np.vectorize(math.erf, otypes=[np.float32])

    def embed(self, rows: list[list[int]]) -> Array:
        return np.stack([self._embed(row) for row in rows])

    def _embed(self, row: list[int]) -> Array:
        table = self._weights
        hidden = table["embeddings.word_embeddings.weight"][row]
        hidden = hidden + table["embeddings.position_embeddings.weight"][: len(row)]
        hidden = hidden + table["embeddings.token_type_embeddings.weight"][0]
        hidden = self._norm("embeddings.LayerNorm", hidden)
        for index in range(6):
            hidden = self._layer(f"encoder.layer.{index}.", hidden)
        total = hidden.mean(axis=0)
        pooled: Array = total / np.linalg.norm(total)
        return pooled

    def _layer(self, name: str, hidden: Array) -> Array:
        query, key, value = (
            self._linear(f"{name}attention.self.{part}", hidden)
            .reshape(len(hidden), HEADS, -1)
            .swapaxes(0, 1)
            for part in ("query", "key", "value")
        )
        scores = query @ key.swapaxes(1, 2) / math.sqrt(query.shape[-1])
        chances = np.exp(scores - scores.max(axis=-1, keepdims=True))
        chances /= chances.sum(axis=-1, keepdims=True)
        mixed = (chances @ value).swapaxes(0, 1).reshape(hidden.shape)
        attended = self._linear(f"{name}attention.output.dense", mixed)
        hidden = self._norm(f"{name}attention.output.LayerNorm", hidden + attended)
        inner = self._linear(f"{name}intermediate.dense", hidden)
        inner = inner * (1 + self._erf(inner / math.sqrt(2))) / 2
        outer = self._linear(f"{name}output.dense", inner)
        return self._norm(f"{name}output.LayerNorm", hidden + outer)

    def _linear(self, name: str, data: Array) -> Array:
        product: Array = data @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]
        return product

    def _norm(self, name: str, data: Array) -> Array:
        centred = data - data.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + EPSILON)
        normed: Array = scaled * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]
        return normed


def load(path: Path) -> Reference:
    return Reference(read_safetensors(path.read_bytes()))
