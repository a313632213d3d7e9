"""Named arrays in and out: what a model takes and gives, and one caller's inputs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

DATATYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP16": np.dtype(np.float16),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
    "BYTES": np.dtype(np.object_),  # of str
}
"""The Open Inference Protocol's names of what is served."""

DATATYPE_NAMES = {dtype: name for name, dtype in DATATYPES.items()}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output. shape: None where a dimension may be of any size."""

    name: str
    datatype: str
    shape: tuple[int | None, ...]

    @property
    def shown_shape(self) -> list[int]:
        """As the Open Inference Protocol writes it: -1 for any size."""
        return [-1 if size is None else size for size in self.shape]


@dataclass(frozen=True, slots=True)
class Signature:
    """What a graph takes and gives."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def describe(self) -> dict[str, Any]:
        """Plain data, for `/models`."""
        return {"inputs": _described(self.inputs), "outputs": _described(self.outputs)}


def _described(specs: tuple[TensorSpec, ...]) -> list[dict[str, Any]]:
    return [
        {"name": spec.name, "datatype": spec.datatype, "shape": spec.shown_shape} for spec in specs
    ]


@dataclass(frozen=True, slots=True)
class Tensors:
    """One caller's inputs, of the model's own types. Its length, and what it costs the scheduler,
    is the first dimension."""

    arrays: Mapping[str, Array]

    def __len__(self) -> int:
        return max((array.shape[0] for array in self.arrays.values() if array.ndim), default=1)
