"""Text to label: from the model's own scores, or by a logistic head on its sentence vector.

The head is data (docs/models.md says how it was trained), so a new one needs no code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from app.core.errors import CannotLoad
from app.core.tensors import Signature
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
        logits = vectors.astype(np.float64) @ self.weights.T + self.bias
        return softmax(logits / self.temperature)


def softmax(logits: Scores) -> Scores:
    """[rows, labels]; every row sums to 1."""
    chances = np.exp(logits - logits.max(axis=1, keepdims=True))
    normed: Scores = chances / chances.sum(axis=1, keepdims=True)
    return normed


def sigmoid(logits: Scores) -> Scores:
    """Each number by itself to between 0 and 1, without overflow."""
    chances: Scores = 0.5 * (1.0 + np.tanh(0.5 * logits))
    return chances


class Classify:
    """The likeliest label by a head of ours, with the chance of every label."""

    def __init__(self, head_file: str) -> None:
        self._head = Head.load(head_file)

    def prepare(self, text: str, parameters: Mapping[str, Any], tokenizer: Tokenizer) -> Prepared:
        return single_row(text, parameters, tokenizer, "classifier")

    def finish(
        self, prepared: Prepared, outputs: Sequence[Any], parameters: Mapping[str, Any]
    ) -> Answer:
        scores = self._head.scores(single_vector(outputs)[None])[0]
        return _answer(prepared, self._head.labels, scores, parameters)


class ClassifyScores:
    """The likeliest label by the model's own scores.

    labels: in the order of the scores. function: `softmax` where exactly one label is right, so
    that chances sum to 1; `sigmoid` where each label is right or wrong by itself.
    """

    def __init__(
        self, labels: Sequence[str], function: Literal["softmax", "sigmoid"] = "softmax"
    ) -> None:
        functions = {"softmax": softmax, "sigmoid": sigmoid}
        if function not in functions:
            raise ValueError(f"function is {function!r}; known: {', '.join(functions)}")
        if not labels or len(set(labels)) != len(labels):
            raise ValueError("labels must be distinct, and at least one")
        self._labels = tuple(str(label) for label in labels)
        self._function = functions[function]

    def fit(self, signature: Signature) -> None:
        width = signature.outputs[0].shape[-1]
        if width is not None and width != len(self._labels):
            raise CannotLoad(f"the model gives {width} scores; labels has {len(self._labels)}")

    def prepare(self, text: str, parameters: Mapping[str, Any], tokenizer: Tokenizer) -> Prepared:
        return single_row(text, parameters, tokenizer, "classifier")

    def finish(
        self, prepared: Prepared, outputs: Sequence[Any], parameters: Mapping[str, Any]
    ) -> Answer:
        scores = self._function(single_vector(outputs)[None].astype(np.float64))[0]
        return _answer(prepared, self._labels, scores, parameters)


def _answer(
    prepared: Prepared, labels: Sequence[str], scores: Scores, parameters: Mapping[str, Any]
) -> Answer:
    """The label with the highest score; `top_k` keeps the highest scores only, best first."""
    best = int(scores.argmax())
    shown = dict(zip(labels, scores.tolist(), strict=True))
    if (top_k := parameters.get("top_k")) is not None:
        shown = dict(sorted(shown.items(), key=lambda entry: -entry[1])[:top_k])
    metadata = {
        "confidence": float(scores[best]),
        "scores": shown,
        **prepared.state.metadata(),
    }
    return Answer(labels[best], metadata, Usage(prepared.input_tokens))
