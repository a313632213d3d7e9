"""A smaller graph for BERT-like embedding models whose weights are int8.

The exported ONNX graph computes each attention in some twenty small nodes and hands out one
vector per token. `sentence_encoder` takes its weights, untouched, and builds the same model from
OpenVINO's fused operations: one product for query, key and value, one attention node, and mean
pooling and normalisation inside, so that only [rows, width] leaves the engine. docs/adr/0001
has the measurements.

A weight stays what it was in the file: int8 numbers times one float32 scale per output. OpenVINO
multiplies such weights in int8, quantising the activations as it goes.
"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as op

from app.core.errors import CannotLoad

Array = NDArray[Any]

_PREFIX = re.compile(r"^(.*?)embeddings\.LayerNorm\.weight$")
_INT8_WORDS = "embeddings.word_embeddings.weight_q"
_LANES = 16  # float32 numbers in the CPU's widest vector


@dataclass(frozen=True, slots=True)
class _Linear:
    """weight: int8 [inputs, outputs]; scale: [1, outputs]; bias: [outputs]."""

    weight: Array
    scale: Array
    bias: Array


def is_int8_bert(source: ov.Model) -> bool:
    """Whether it is the kind of graph described above: ONNX quantisers name its weights so."""
    return any(
        node.get_friendly_name().endswith(_INT8_WORDS)
        for node in source.get_ordered_ops()
        if node.get_type_name() == "Constant"
    )


def sentence_encoder(source: ov.Model) -> ov.Model:
    """The compact graph: `input_ids`, `attention_mask` (int64 [rows, tokens]) to `embeddings`.

    Every row of the answer is the normalised mean of its tokens' vectors. Raises CannotLoad when
    `source` is not the kind of graph described above.
    """
    try:
        return _build(_Weights(source))
    except (KeyError, IndexError, AttributeError, StopIteration) as error:
        raise CannotLoad(f"not an int8 BERT graph with the usual names: {error}") from error


class _Weights:
    """Finds the weights of an exported BERT by the names of its biases."""

    def __init__(self, source: ov.Model) -> None:
        self._constants = {
            node.get_friendly_name(): node
            for node in source.get_ordered_ops()
            if node.get_type_name() == "Constant"
        }
        self.prefix = next(m[1] for name in self._constants if (m := _PREFIX.match(name)))
        self.epsilon = next(
            float(node.get_attributes()["eps"])
            for node in source.get_ordered_ops()
            if node.get_type_name() == "MVN"
        )

        self.head_width = next(
            node.output(0).get_partial_shape()[3].get_length()
            for node in source.get_ordered_ops()
            if node.get_type_name() == "MatMul" and _is_context(node)
        )

    def layers(self) -> int:
        found = (re.search(r"encoder\.layer\.(\d+)\.", name) for name in self._constants)
        return 1 + max(int(match[1]) for match in found if match)

    def array(self, name: str) -> Array:
        data: Array = self._constants[self.prefix + name].data
        return data

    def linear(self, name: str) -> _Linear:
        """The product that feeds the bias: Add(MatMul(x, Multiply(Convert(int8), scale)), bias)."""
        bias = self._constants[f"{self.prefix}{name}.bias"]
        add = next(iter(bias.output(0).get_target_inputs())).get_node()
        product = next(node for node in _inputs(add) if node.get_type_name() == "MatMul")
        convert, scale = _inputs(_inputs(product)[1])
        return _Linear(_inputs(convert)[0].data, scale.data, bias.data)


def _is_context(product: ov.Node) -> bool:
    """Whether this is attention's second product: [rows, heads, tokens, head width]."""
    shape = product.output(0).get_partial_shape()
    return len(shape) == 4 and shape[3].is_static


def _ints(*values: int) -> ov.Node:
    return op.constant(np.array(values, np.int64))


def _index(value: int) -> ov.Node:
    return op.constant(np.array(value, np.int64))


def _inputs(node: ov.Node) -> list[ov.Node]:
    return [port.get_source_output().get_node() for port in node.inputs()]


class _Keys:
    """What attention may look at: the tokens of a row, filled up to whole vectors of the CPU.

    The CPU sums a softmax sixteen numbers at a time and the rest one by one, so the same row
    gets another last bit when it is padded to another length. Quantised activations make that
    last bit a visible difference. With keys in multiples of sixteen every sum has the same
    order, and a row's answer is the same, to the bit, alone and beside longer rows.
    """

    def __init__(self, mask: ov.Node) -> None:
        self._tokens = op.gather(op.shape_of(mask), _ints(1), _index(0))
        self._missing = op.floor_mod(op.negative(self._tokens), _ints(_LANES))
        fill = op.concat([_ints(0), self._missing], 0)
        padded = op.pad(mask, _ints(0, 0), fill, "constant", _index(0))
        self.allowed = op.unsqueeze(op.convert(padded, "boolean"), _ints(1, 2))

    def fill(self, vectors: ov.Node) -> ov.Node:
        """vectors: [rows, tokens, 3, heads, head width], filled up with zeros."""
        end = op.concat([_ints(0), self._missing, _ints(0, 0, 0)], 0)
        return op.pad(vectors, _ints(0, 0, 0, 0, 0), end, "constant", np.float32(0))

    def unfill(self, vectors: ov.Node) -> ov.Node:
        """vectors: [rows, tokens, width]; only the products around attention go without filling."""
        return op.slice(vectors, _ints(0), self._tokens, _ints(1), _ints(1))


def _build(weights: _Weights) -> ov.Model:
    ids = op.parameter([-1, -1], np.int64, name="input_ids")
    mask = op.parameter([-1, -1], np.int64, name="attention_mask")
    real = op.convert(mask, "f32")
    keys = _Keys(mask)
    hidden = _embed(weights, ids)
    for index in range(weights.layers()):
        hidden = _layer(weights, f"encoder.layer.{index}.", hidden, keys)
    result = op.result(_pool(hidden, real))
    result.output(0).get_tensor().set_names({"embeddings"})
    for parameter in (ids, mask):
        parameter.output(0).get_tensor().set_names({parameter.get_friendly_name()})
    return ov.Model([result], [ids, mask], "sentence_encoder")


def _embed(weights: _Weights, ids: ov.Node) -> ov.Node:
    """Word, position and (constant) segment vectors, normalised."""
    words, word_scale = (
        op.gather(op.constant(weights.array(name)), ids, _index(0))
        for name in (
            "embeddings.word_embeddings.weight_q",
            "embeddings.word_embeddings.weight_scale",
        )
    )
    positions = weights.array("embeddings.position_embeddings.weight_q") * weights.array(
        "embeddings.position_embeddings.weight_scale"
    )
    positions = positions + weights.array("embeddings.token_type_embeddings.weight")[0]
    tokens = op.gather(op.shape_of(ids), _index(1), _index(0))
    first = op.slice(
        op.constant(positions.astype(np.float32)),
        _ints(0),
        op.unsqueeze(tokens, _index(0)),
        _ints(1),
        _ints(0),
    )
    hidden = op.add(op.multiply(op.convert(words, "f32"), word_scale), first)
    return _norm(weights, "embeddings.LayerNorm", hidden)


def _layer(weights: _Weights, name: str, hidden: ov.Node, keys: _Keys) -> ov.Node:
    attended = _attention(weights, f"{name}attention.", hidden, keys)
    hidden = _norm(weights, f"{name}attention.output.LayerNorm", op.add(attended, hidden))
    inner = op.gelu(_product(hidden, weights.linear(f"{name}intermediate.dense")), "erf")
    outer = _product(inner, weights.linear(f"{name}output.dense"))
    return _norm(weights, f"{name}output.LayerNorm", op.add(outer, hidden))


def _attention(weights: _Weights, name: str, hidden: ov.Node, keys: _Keys) -> ov.Node:
    parts = [weights.linear(f"{name}self.{part}") for part in ("query", "key", "value")]
    fused = _Linear(
        np.concatenate([part.weight for part in parts], axis=1),
        np.concatenate([part.scale for part in parts], axis=1),
        np.concatenate([part.bias for part in parts]),
    )
    width = parts[0].bias.size
    heads = op.reshape(
        _product(hidden, fused),
        _ints(0, 0, 3, width // weights.head_width, weights.head_width),
        True,
    )
    by_part = op.transpose(keys.fill(heads), _ints(2, 0, 3, 1, 4))
    query, key, value = (op.gather(by_part, _index(part), _index(0)) for part in range(3))
    mixed = op.scaled_dot_product_attention(query, key, value, keys.allowed, causal=False)
    joined = op.reshape(op.transpose(mixed, _ints(0, 2, 1, 3)), _ints(0, 0, width), True)
    return _product(keys.unfill(joined), weights.linear(f"{name}output.dense"))


def _product(data: ov.Node, linear: _Linear) -> ov.Node:
    weight = op.multiply(op.convert(op.constant(linear.weight), "f32"), op.constant(linear.scale))
    return op.add(op.matmul(data, weight, False, False), op.constant(linear.bias))


def _norm(weights: _Weights, name: str, data: ov.Node) -> ov.Node:
    centred = op.mvn(data, _ints(-1), True, weights.epsilon, "inside_sqrt")
    scaled = op.multiply(centred, op.constant(weights.array(f"{name}.weight")))
    return op.add(scaled, op.constant(weights.array(f"{name}.bias")))


def _pool(hidden: ov.Node, real: ov.Node) -> ov.Node:
    """The mean over real tokens, as a product of [1, tokens] with [tokens, width], normalised.

    Dividing by the count is left out: normalising undoes it.
    """
    total = op.squeeze(op.matmul(op.unsqueeze(real, _index(1)), hidden, False, False), _index(1))
    return op.normalize_l2(total, _ints(1), 1e-12, "max")
