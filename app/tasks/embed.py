"""Text to vector."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from app.core.errors import InvalidRequest
from app.core.tensors import Signature
from app.core.types import Answer, Usage
from app.tasks.base import Prepared, Tokenizer, Vectors
from app.tasks.rows import single_row, single_vector


class Embed:
    """The model's normalised sentence vector, as it leaves the runtime.

    dimensions: shorter lengths that the model was trained to be cut to, first numbers first
    (Matryoshka); true: any. Others lose what they mean when they are cut.
    """

    def __init__(self, dimensions: Sequence[int] | bool = False) -> None:
        if not isinstance(dimensions, bool):
            if not all(type(length) is int and length > 0 for length in dimensions):
                raise ValueError("dimensions must be true, false or a list of lengths")
        self._lengths = dimensions
        self._width: int | None = None

    def fit(self, signature: Signature) -> None:
        self._width = signature.outputs[0].shape[-1]

    def prepare(self, text: str, parameters: Mapping[str, Any], tokenizer: Tokenizer) -> Prepared:
        if self._width is not None:  # else it is known when the model has run
            self._check(parameters.get("dimensions"), self._width)
        return single_row(text, parameters, tokenizer, "embedder")

    def finish(
        self, prepared: Prepared, outputs: Sequence[Any], parameters: Mapping[str, Any]
    ) -> Answer:
        vector = single_vector(outputs)
        wanted = parameters.get("dimensions")
        self._check(wanted, vector.size)
        if wanted is not None and wanted < vector.size:
            vector = _cut(vector, wanted)
        return Answer(
            vector.tolist(),
            {"dimensions": vector.size, **prepared.state.metadata()},
            Usage(input_tokens=prepared.input_tokens),
        )

    def _check(self, wanted: int | None, width: int) -> None:
        if wanted is None or wanted == width:
            return
        if isinstance(self._lengths, bool):
            may, shorter = self._lengths and wanted < width, f"1 to {width - 1}"
        else:
            may, shorter = wanted in self._lengths, ", ".join(map(str, self._lengths))
        if not may:
            others = f", or {shorter}" if self._lengths else ", and cannot be cut"
            raise InvalidRequest(
                f"parameters.dimensions is {wanted}, but the model's vectors have {width}{others}"
            )


def _cut(vector: Vectors, length: int) -> Vectors:
    """The first numbers, brought back to length 1."""
    head = vector[:length].astype(np.float64)
    norm = float(np.linalg.norm(head))
    cut: Vectors = (head / norm if norm > 0 else head).astype(np.float32)
    return cut
