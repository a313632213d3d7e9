"""Any graph that OpenVINO reads (ONNX, IR), by named tensors."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import openvino as ov
import structlog

from app.core.errors import CannotLoad, InvalidRequest
from app.core.tensors import DATATYPES, Array, Signature, Tensors, TensorSpec
from app.runtimes.base import StreamPlan
from app.runtimes.openvino_rows import Requests, loading
from app.runtimes.openvino_signature import signature_of

log = structlog.get_logger()

_GUESSED_SIZE = 8  # of a dimension of any size, for the trial at load
_TOLERANCE = {"fp32": 1e-3, "int8": 3e-2}


class OpenVinoTensors:
    """One pass per request, or one for several whose tensors can be put one below the other.

    options: precision of the products, `fp32` or `int8`; batch, whether the first dimension counts
    independent rows. Without `batch` it is tried out at load: two inputs must give together what
    they give alone. Where that cannot be tried, requests run one by one.

    Nothing is calibrated: what a dimension costs is the graph's secret, so there are as many
    single-threaded streams as there are threads.
    """

    tokenizer = None

    def __init__(
        self,
        files: Mapping[str, str],
        *,
        plan: StreamPlan,
        precision: str = "fp32",
        batch: bool | None = None,
    ) -> None:
        self.plan = plan
        with loading(files["model"]):
            model = ov.Core().read_model(files["model"])
            self.signature: Signature = signature_of(model)
            if len({spec.name for spec in self.signature.inputs}) < len(self.signature.inputs):
                raise CannotLoad("two inputs have the same name")
            self._requests = Requests(model, plan, precision)
        if batch is None:
            batch = self._can_be_stacked(_TOLERANCE[precision])
        self.batches = batch and all(
            spec.shape[:1] == (None,) for spec in (*self.signature.inputs, *self.signature.outputs)
        )

    def group_of(self, settings: Any) -> Hashable:
        """settings: what inputs must have in common; None where nothing shares their batch."""
        return object() if settings is None or not self.batches else settings

    def probe(self, rows: Sequence[Tensors]) -> None:
        self.run(rows)

    def run(self, rows: Sequence[Tensors], settings: Sequence[Any] = ()) -> list[dict[str, Array]]:
        """The graph's outputs by name, for each row. Raises InvalidRequest for shapes that the
        graph does not take together."""
        if len(rows) == 1:
            return [self._infer(rows[0].arrays)]
        stacked = {
            name: np.concatenate([row.arrays[name] for row in rows]) for name in rows[0].arrays
        }
        outputs = self._infer(stacked)
        total = sum(map(len, rows))
        if any(array.shape[:1] != (total,) for array in outputs.values()):
            return [self._infer(row.arrays) for row in rows]
        ends = np.cumsum([len(row) for row in rows])[:-1]
        parts = {name: np.split(array, ends) for name, array in outputs.items()}
        return [{name: parts[name][index] for name in parts} for index in range(len(rows))]

    def _infer(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        given = {
            index: _contiguous(arrays[spec.name])
            for index, spec in enumerate(self.signature.inputs)
        }
        try:
            results = self._requests.infer(given)
        except RuntimeError as error:
            log.warning("tensors_refused", error=str(error))
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items())
            raise InvalidRequest(f"inputs do not fit the model together: {shapes}") from error
        names = (spec.name for spec in self.signature.outputs)
        return dict(zip(names, results, strict=True))

    def _can_be_stacked(self, tolerance: float) -> bool:
        """Whether two invented inputs give together what they give alone."""
        source = np.random.default_rng(0)
        first, second = (
            Tensors({spec.name: _invented(spec, source) for spec in self.signature.inputs})
            for _ in range(2)
        )
        specs = (*self.signature.inputs, *self.signature.outputs)
        if not first.arrays or any(spec.shape[:1] != (None,) for spec in specs):
            return False
        if any(spec.datatype == "BYTES" for spec in specs):  # nobody knows the words it knows
            return False
        together = Tensors(
            {
                name: np.concatenate([first.arrays[name], second.arrays[name]])
                for name in first.arrays
            }
        )
        try:
            alone = [self._infer(first.arrays), self._infer(second.arrays)]
            both = self._infer(together.arrays)
        except InvalidRequest:
            return False
        return all(
            both[name].shape[:1] == (len(together),)
            and np.allclose(
                both[name],
                np.concatenate([outputs[name] for outputs in alone]),
                rtol=tolerance,
                atol=tolerance,
                equal_nan=True,
            )
            for name in both
        )


def _contiguous(array: Array) -> Array:
    """As the engine takes it: strings padded to one length, which was bounded when they came."""
    return array.astype(np.str_) if array.dtype.kind == "O" else np.ascontiguousarray(array)


def _invented(spec: TensorSpec, source: np.random.Generator) -> Array:
    """Two rows of ordinary numbers; whole ones are 0 or 1, which every table of vectors has."""
    shape = [2, *(_GUESSED_SIZE if size is None else size for size in spec.shape[1:])]
    dtype = DATATYPES[spec.datatype]
    if dtype.kind == "f":
        return source.normal(size=shape).astype(dtype)
    return source.integers(0, 2, size=shape).astype(dtype)
