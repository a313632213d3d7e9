"""Text to label: a logistic head on the model's sentence vector.

The head is data (docs/models.md says how it was trained), so a new one needs no code.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from app.core.types import Answer, Usage
from app.tasks.base import Prepared, Tokenizer, Vectors
from app.tasks.rows import single_row, single_vector

Scores = NDArray[np.float64]


class HeadFile(msgspec.Struct, frozen=True):
    """The file's layout. `training`, its record for people, is not read here."""

    labels: list[str]
    weights: list[list[float]]  # [labels, width]
    bias: list[float]
    temperature: float


@dataclass(frozen=True, slots=True)
class Head:
    """Chances of each label, given a vector. temperature makes them as sure as they are right."""

    labels: tuple[str, ...]
    weights: Scores
    bias: Scores
    temperature: float

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Raises OSError, or ValueError saying what is wrong with the file."""
        try:
            file = msgspec.json.decode(Path(path).read_bytes(), type=HeadFile)
            weights, bias = np.array(file.weights, np.float64), np.array(file.bias, np.float64)
        except (msgspec.MsgspecError, ValueError) as error:
            raise ValueError(f"{path} is not a classification head: {error}") from error
        count = len(file.labels)
        if count < 2 or weights.ndim != 2 or len(weights) != count or bias.shape != (count,):
            raise ValueError(f"{path}: every label needs one row of weights and one bias")
        if not file.temperature > 0:
            raise ValueError(f"{path}: temperature must be above 0, not {file.temperature}")
        return cls(tuple(file.labels), weights, bias, file.temperature)

    def scores(self, vectors: Vectors) -> Scores:
        """[rows, labels]; every row sums to 1."""
        logits = (vectors.astype(np.float64) @ self.weights.T + self.bias) / self.temperature
        chances = np.exp(logits - logits.max(axis=1, keepdims=True))
        normed: Scores = chances / chances.sum(axis=1, keepdims=True)
        return normed


class Classify:
    """The likeliest label, with the chance of every label."""

    def __init__(self, head_file: str) -> None:
        self._head = Head.load(head_file)

    def prepare(self, text: str, parameters: Mapping[str, Any], tokenizer: Tokenizer) -> Prepared:
        return single_row(text, parameters, tokenizer, "classifier")

    def finish(self, prepared: Prepared, outputs: Vectors, parameters: Mapping[str, Any]) -> Answer:
        scores = self._head.scores(single_vector(outputs)[None])[0]
        best = int(scores.argmax())
        metadata = {
            "confidence": float(scores[best]),
            "scores": dict(zip(self._head.labels, scores.tolist(), strict=True)),
            **prepared.state.metadata(),
        }
        return Answer(self._head.labels[best], metadata, Usage(prepared.input_tokens))
