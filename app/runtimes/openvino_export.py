"""Plain exports of encoders (optimum's IR, anybody's ONNX) made ready to serve.

The graph stays as it is, but for its ends: what is not asked for is cut off, vectors are pooled
and normalised inside, so that only [rows, width] leaves the engine, and attention is given keys
in whole vectors of the CPU (openvino_keys.py), so that a row's answer does not depend on its
batch-mates.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as op

from app.core.errors import CannotLoad
from app.runtimes.openvino_keys import fill_keys

INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
POOLINGS = ("mean", "cls", "last")
_POOLED = ("sentence_embedding", "embeddings", "pooled_embedding")
_PER_TOKEN = ("last_hidden_state", "token_embeddings", "hidden_states")


@dataclass(frozen=True, slots=True)
class RowGraph:
    """model: one output [rows, width]. inputs: of INPUTS, those that it has, with their types.

    row_multiple: rows are padded to a multiple of it; 1 where the graph does that inside.
    """

    model: ov.Model
    inputs: dict[str, np.dtype[Any]]
    row_multiple: int = 1


def scores_graph(source: ov.Model, *, quantised: bool) -> RowGraph:
    """The graph with `logits` ([rows, labels]) as its only output. Raises CannotLoad.

    quantised: activations will be, so the order of every sum matters (openvino_keys.py).
    """
    inputs = _inputs(source)
    found = _output(source, ("logits",), rank=2)
    if found is None:
        raise CannotLoad(f"no output `logits` of [rows, labels]; it has {_shown(source.outputs)}")
    return _finished(source, _to_f32(found), inputs, quantised)


def vectors_graph(
    source: ov.Model, pooling: str | None, *, normalize: bool, quantised: bool
) -> RowGraph:
    """The graph with one vector per row as its only output.

    pooling: of the vectors per token; None: the graph's own pooled output, or else `mean`.
    Raises CannotLoad when the graph has nothing of the kind.
    """
    if pooling is not None and pooling not in POOLINGS:
        raise CannotLoad(f"pooling is {pooling!r}; known: {', '.join(POOLINGS)}")
    inputs = _inputs(source)
    pooled = _output(source, _POOLED, rank=2)
    tokens = _output(source, _PER_TOKEN, rank=3)
    if tokens is not None and (pooling is not None or pooled is None):
        mask = source.input("attention_mask").get_node()
        vectors = _pool(_to_f32(tokens), mask, pooling or "mean")
    elif pooled is not None:
        vectors = _to_f32(pooled)
    else:
        raise CannotLoad(f"no output of vectors; it has {_shown(source.outputs)}")
    if normalize:
        vectors = op.normalize_l2(vectors, _ints(1), 1e-12, "max")
    return _finished(source, vectors, inputs, quantised)


def _finished(
    source: ov.Model, rows: ov.Node, inputs: dict[str, np.dtype[Any]], quantised: bool
) -> RowGraph:
    model = ov.Model([op.result(rows)], source.get_parameters(), source.get_friendly_name())
    return RowGraph(model, inputs, fill_keys(model) if quantised else 1)


def _inputs(source: ov.Model) -> dict[str, np.dtype[Any]]:
    found = {_name(port): port for port in source.inputs}
    if unknown := set(found) - set(INPUTS):
        raise CannotLoad(f"inputs {sorted(unknown)} are unknown; known: {', '.join(INPUTS)}")
    if missing := {"input_ids", "attention_mask"} - set(found):
        raise CannotLoad(f"no input {' and '.join(sorted(missing))}")
    for name, port in found.items():
        shape = port.get_partial_shape()
        if len(shape) != 2 or any(size.is_static for size in shape):
            raise CannotLoad(
                f"input {name} has the shape {shape}; export it with rows and tokens of any number"
            )
    return {name: np.dtype(port.get_element_type().to_dtype()) for name, port in found.items()}


def _output(source: ov.Model, names: tuple[str, ...], rank: int) -> ov.Output | None:
    """The output of one of these names, or else the first of this rank."""
    fitting = [port for port in source.outputs if len(port.get_partial_shape()) == rank]
    named = [port for name in names for port in fitting if name in port.get_names()]
    found: ov.Output | None = next(iter(named + fitting), None)
    return found


def _name(port: ov.Output) -> str:
    """The one of a port's names that we know, or else any, or else its node's."""
    names: set[str] = port.get_names()
    known = [name for name in INPUTS if name in names]
    node_name: str = port.get_node().get_friendly_name()
    return next(iter(known + sorted(names)), node_name)


def _shown(ports: list[ov.Output]) -> str:
    return ", ".join(f"{_name(port)} {port.get_partial_shape()}" for port in ports)


def _to_f32(result: ov.Output) -> ov.Node:
    return op.convert(result.get_node().input(0).get_source_output(), "f32")


def _pool(hidden: ov.Node, mask: ov.Node, pooling: str) -> ov.Node:
    """[rows, tokens, width] to [rows, width]; padding stands at the end of a row."""
    if pooling == "cls":
        return op.gather(hidden, _index(0), _index(1))
    if pooling == "last":
        count = op.reduce_sum(op.convert(mask, "i64"), _ints(1))
        last = op.subtract(count, _ints(1))
        return op.gather(hidden, last, _index(1), batch_dims=1)
    real = op.convert(mask, "f32")
    total = op.squeeze(op.matmul(op.unsqueeze(real, _index(1)), hidden, False, False), _index(1))
    return op.divide(total, op.reduce_sum(real, _ints(1), True))


def _ints(*values: int) -> ov.Node:
    return op.constant(np.array(values, np.int64))


def _index(value: int) -> ov.Node:
    return op.constant(np.array(value, np.int64))
