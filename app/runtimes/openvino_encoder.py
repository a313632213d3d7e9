"""Encoders on OpenVINO: rows of token ids in, one vector or one row of scores per row out.

Two kinds of graph are taken. Plain exports (optimum's `openvino_model.xml`, anybody's ONNX) are
served as they are, with pooling added; BERTs whose ONNX weights are int8 are built anew from
fused operations, because that is faster (openvino_graph.py).
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov

from app.core.errors import CannotLoad
from app.core.inference import TokenIds, Vectors
from app.core.tensors import Signature
from app.runtimes.base import StreamPlan
from app.runtimes.mapped import drop_pages
from app.runtimes.openvino_export import RowGraph, scores_graph, vectors_graph
from app.runtimes.openvino_graph import is_int8_bert, sentence_encoder
from app.runtimes.openvino_rows import INT8, RowRuntime, loading
from app.runtimes.openvino_signature import signature_of
from app.runtimes.tokenizer import JsonTokenizer

WARM_UP = ((1, 16), (4, 32))  # rows, tokens

GraphOf = Callable[[ov.Model, bool], RowGraph]
"""What is served, made of the graph in the file and of whether its products are of int8."""


class _Encoder:
    """What both kinds do with their graph. `run` may be called by `plan.streams` threads."""

    def __init__(
        self,
        files: Mapping[str, str],
        graph_of: GraphOf,
        *,
        plan: StreamPlan,
        max_tokens: int,
        precision: str,
    ) -> None:
        self.plan = plan
        self.tokenizer = JsonTokenizer(files["tokenizer"], max_tokens)
        with loading(files["model"]):
            graph = graph_of(ov.Core().read_model(files["model"]), precision == INT8)
            self._rows = RowRuntime(graph, plan, precision, self.tokenizer.pad_id)
            self.signature: Signature = signature_of(graph.model)
            self._warm_up(Path(files["model"]).with_suffix(".bin"))

    def _warm_up(self, weights: Path) -> None:
        """Run a little, so that no caller pays for the first run, which is also when the engine
        makes its own copy of the weights: those that the file's mapping holds are then given back.
        """
        for rows, tokens in WARM_UP:
            self.run([[0] * min(tokens, self.tokenizer.max_tokens)] * rows)
        drop_pages(weights)

    def group_of(self, settings: Any) -> Hashable:
        return None  # pairs and single texts share a batch

    def probe(self, rows: Sequence[TokenIds]) -> None:
        self.run(rows)

    def run(self, rows: Sequence[TokenIds], settings: Sequence[Any] = ()) -> Vectors:
        """float32 [rows, width]. settings: a `Pair` for each row that is one."""
        return self._rows.run(rows, settings, self.tokenizer.max_tokens)


class OpenVinoEncoder(_Encoder):
    """One vector per row.

    options: max_tokens, the longest row; pooling (`mean`, `cls`, `last`; without it the graph's
    own pooled output, or else `mean`); normalize, to length 1; precision of the products, `int8`
    or `fp32`.
    """

    def __init__(
        self,
        files: Mapping[str, str],
        *,
        plan: StreamPlan,
        max_tokens: int,
        pooling: str | None = None,
        normalize: bool = True,
        precision: str = INT8,
    ) -> None:
        def graph_of(source: ov.Model, quantised: bool) -> RowGraph:
            if is_int8_bert(source):
                return _fused(source, pooling, normalize)
            return vectors_graph(source, pooling, normalize=normalize, quantised=quantised)

        super().__init__(files, graph_of, plan=plan, max_tokens=max_tokens, precision=precision)


class OpenVinoScorer(_Encoder):
    """The graph's `logits` for each row, as they are.

    options: max_tokens, the longest row; precision of the products, `int8` or `fp32`.
    """

    def __init__(
        self,
        files: Mapping[str, str],
        *,
        plan: StreamPlan,
        max_tokens: int,
        precision: str = INT8,
    ) -> None:
        def graph_of(source: ov.Model, quantised: bool) -> RowGraph:
            return scores_graph(source, quantised=quantised)

        super().__init__(files, graph_of, plan=plan, max_tokens=max_tokens, precision=precision)


def _fused(source: ov.Model, pooling: str | None, normalize: bool) -> RowGraph:
    if pooling not in (None, "mean") or not normalize:
        raise CannotLoad("a BERT with int8 weights in ONNX gives normalised mean vectors only")
    ids = np.dtype(np.int64)
    return RowGraph(sentence_encoder(source), {"input_ids": ids, "attention_mask": ids})
