"""What OpenVINO encoders share: compiled once, fed with rows of tokens padded to one length."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray

from app.core.errors import CannotLoad
from app.core.inference import Pair, TokenIds, Vectors
from app.runtimes.base import StreamPlan
from app.runtimes.openvino_export import RowGraph
from app.runtimes.openvino_threads import UNPINNED

# Measured in docs/adr/0001-minilm-engine.md; 0: products of float32.
_DYNAMIC_QUANTIZATION_GROUP = {"int8": 128, "fp32": 0}
INT8 = "int8"

_Ids = NDArray[np.int64]

# Kernels prepared for shapes that were seen. The engine would keep 5,000 of them, and batches come
# in thousands of shapes: MiniLM grew to 1.7 GB in 1,600 batches, and was no faster for it.
KEPT_SHAPES = 16


class Requests:
    """A compiled graph and one inference request per stream."""

    def __init__(self, model: ov.Model, plan: StreamPlan, precision: str) -> None:
        if precision not in _DYNAMIC_QUANTIZATION_GROUP:
            known = ", ".join(_DYNAMIC_QUANTIZATION_GROUP)
            raise CannotLoad(f"precision is {precision!r}; known: {known}")
        # With one thread in all, the engine swallows what goes wrong inside, and hands out what the
        # request before had made. A second stream that nothing uses makes it tell.
        streams = max(2, plan.streams) if plan.threads == 1 else plan.streams
        compiled = ov.Core().compile_model(
            model,
            "CPU",
            {
                "PERFORMANCE_HINT": "THROUGHPUT" if streams > 1 else "LATENCY",
                "NUM_STREAMS": streams,
                "INFERENCE_NUM_THREADS": streams * plan.threads,
                **UNPINNED,
                "INFERENCE_PRECISION_HINT": "f32",
                "CPU_RUNTIME_CACHE_CAPACITY": KEPT_SHAPES,
                "DYNAMIC_QUANTIZATION_GROUP_SIZE": _DYNAMIC_QUANTIZATION_GROUP[precision],
            },
        )
        self._free: SimpleQueue[Any] = SimpleQueue()
        for _ in range(plan.streams):
            self._free.put(compiled.create_infer_request())

    def infer(self, inputs: Mapping[Any, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs in the graph's order; copies, because buffers are reused.

        inputs: by name or by position.
        """
        request = self._free.get()
        try:
            results = request.infer(inputs)
            return [np.array(results[index]) for index in range(len(results))]
        finally:
            self._free.put(request)


@contextmanager
def loading(path: str) -> Iterator[None]:
    """Names the file in whatever goes wrong while it is read and compiled."""
    try:
        yield
    except RuntimeError as error:
        raise CannotLoad(f"OpenVINO cannot read {path}: {error}") from error
    except CannotLoad as error:
        raise CannotLoad(f"{Path(path).name}: {error}") from error


class RowRuntime:
    """Runs a `RowGraph`. `run` may be called by `plan.streams` threads at once."""

    def __init__(self, graph: RowGraph, plan: StreamPlan, precision: str, pad_id: int) -> None:
        self._requests = Requests(graph.model, plan, precision)
        self._inputs = graph.inputs
        self._multiple = graph.row_multiple
        self._pad_id = pad_id

    def run(self, rows: Sequence[TokenIds], settings: Sequence[Any], most: int) -> Vectors:
        """float32 [rows, width]. most: tokens that a row has at most, padding included."""
        longest = max(map(len, rows))
        filled = -(-longest // self._multiple) * self._multiple
        ids, mask = padded(rows, max(longest, min(filled, most)), self._pad_id)
        given = {"input_ids": ids, "attention_mask": mask}
        if "token_type_ids" in self._inputs:
            given["token_type_ids"] = token_types(rows, settings, ids)
        if "position_ids" in self._inputs:
            given["position_ids"] = np.tile(np.arange(ids.shape[1]), (len(ids), 1))
        (vectors,) = self._requests.infer(
            {name: given[name].astype(dtype, copy=False) for name, dtype in self._inputs.items()}
        )
        return vectors


def padded(rows: Sequence[TokenIds], tokens: int, pad_id: int) -> tuple[_Ids, _Ids]:
    """Ids and mask, [rows, tokens]: padding at the end, where the mask is 0."""
    ids = np.full((len(rows), tokens), pad_id, dtype=np.int64)
    mask = np.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
        mask[index, : len(row)] = 1
    return ids, mask


def token_types(rows: Sequence[TokenIds], settings: Sequence[Any], ids: _Ids) -> _Ids:
    """1 for the second text of a `Pair`, 0 everywhere else."""
    types = np.zeros_like(ids)
    for index, (row, setting) in enumerate(zip(rows, settings, strict=False)):
        if isinstance(setting, Pair):
            types[index, setting.second_from : len(row)] = 1
    return types
