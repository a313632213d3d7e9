"""Sentence encoders on OpenVINO: rows of token ids in, one vector per row out."""

from collections.abc import Mapping, Sequence
from queue import SimpleQueue
from typing import Any

import numpy as np
import openvino as ov

from app.core.errors import CannotLoad
from app.core.inference import TokenIds, Vectors
from app.runtimes.base import StreamPlan
from app.runtimes.openvino_graph import sentence_encoder
from app.runtimes.tokenizer import JsonTokenizer

# Measured in docs/adr/0001-minilm-engine.md.
DYNAMIC_QUANTIZATION_GROUP = 128


class OpenVinoEncoder:
    """A BERT-like embedding model. `run` may be called by `plan.streams` threads at once.

    options: max_tokens, the longest row.
    """

    def __init__(self, files: Mapping[str, str], *, plan: StreamPlan, max_tokens: int) -> None:
        self.plan = plan
        self.tokenizer = JsonTokenizer(files["tokenizer"], max_tokens)
        try:
            model = sentence_encoder(ov.Core().read_model(files["model"]))
            compiled = ov.Core().compile_model(model, "CPU", _properties(plan))
        except RuntimeError as error:
            raise CannotLoad(f"OpenVINO cannot read {files['model']}: {error}") from error
        self._requests: SimpleQueue[Any] = SimpleQueue()
        for _ in range(plan.streams):
            self._requests.put(compiled.create_infer_request())

    def run(self, rows: Sequence[TokenIds]) -> Vectors:
        """float32 [rows, width]: the normalised mean vector of each row, padding left out."""
        ids = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
        mask = np.zeros_like(ids)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = row
            mask[index, : len(row)] = 1
        request = self._requests.get()
        try:
            result = request.infer({"input_ids": ids, "attention_mask": mask})
            vectors: Vectors = np.array(result[0], dtype=np.float32)  # a copy: buffers are reused
            return vectors
        finally:
            self._requests.put(request)


def _properties(plan: StreamPlan) -> dict[str, Any]:
    return {
        "PERFORMANCE_HINT": "THROUGHPUT" if plan.streams > 1 else "LATENCY",
        "NUM_STREAMS": plan.streams,
        "INFERENCE_NUM_THREADS": plan.streams * plan.threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": DYNAMIC_QUANTIZATION_GROUP,
    }
