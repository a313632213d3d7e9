"""BART as two compact OpenVINO graphs, made from the numbers of a checkpoint.

`encoder` reads a document once and hands out the keys and values that every decoder layer looks
up in it; `decoder` writes one token per running sequence. A document's beams look at one copy of
its keys and values: they are folded into the length of one query, so nothing is kept or read once
per beam. Words are looked up outside (see app/runtimes/openvino_seq2seq.py), so that the largest
table is on disk once.

int8 weights are numbers times one float32 scale per output, which OpenVINO multiplies in int8,
quantising the activations as it goes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as op

Array = NDArray[Any]
Tensor = Callable[[str], Array]  # a tensor of the checkpoint, by its name
Activation = Callable[[ov.Node], ov.Node]

BLOCK = 64  # outputs of the last layer are padded to whole blocks, and each block's largest told
NEVER = np.float32(-1e30)  # the logit of a padded output: no probability, and finite
EPSILON = 1e-5  # of every LayerNorm in BART, which is torch's default

ACTIVATIONS: Mapping[str, Activation] = {
    "gelu": lambda data: op.gelu(data, "erf"),
    "gelu_new": lambda data: op.gelu(data, "tanh"),
    "relu": op.relu,
}


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a checkpoint that its tensors do not tell."""

    heads: int
    layers: int
    activation: str
    quantised: bool


@dataclass(frozen=True, slots=True)
class _Linear:
    """weight: float32 [outputs, inputs]; bias: [outputs]."""

    weight: Array
    bias: Array


def encoder(tensor: Tensor, shape: Shape, decoder_layers: int, decoder_heads: int) -> ov.Model:
    """`embedded` float32 [documents, tokens, width] and `mask` int64 [documents, tokens] to
    `key.N` [documents, heads, head width, tokens] and `value.N` [documents, heads, tokens, head
    width] of each decoder layer N.
    """
    net = _Net(tensor, shape, "model.encoder.")
    embedded = _parameter("embedded", [-1, -1, net.width], np.float32)
    mask = _parameter("mask", [-1, -1], np.int64)
    tokens = op.gather(op.shape_of(embedded), _ints(1), _index(0))
    places = op.slice(net.positions(), _ints(0), tokens, _ints(1), _ints(0))
    hidden = net.norm("layernorm_embedding", op.add(embedded, places))
    allowed = op.unsqueeze(op.convert(mask, "boolean"), _ints(1, 2))
    for index in range(shape.layers):
        name = f"layers.{index}."
        query, key, value = net.heads_of(f"{name}self_attn.", "qkv", hidden, shape.heads)
        mixed = op.scaled_dot_product_attention(query, key, value, allowed, causal=False)
        hidden = net.attended(f"{name}self_attn", hidden, op.transpose(mixed, _ints(0, 2, 1, 3)))
        hidden = net.feed_forward(name, hidden)
    results = []
    cross = _Net(tensor, shape, "model.decoder.")
    for index in range(decoder_layers):
        parts = cross.heads_of(f"layers.{index}.encoder_attn.", "kv", hidden, decoder_heads)
        keys = op.transpose(parts[0], _ints(0, 1, 3, 2))
        results += [_result(f"key.{index}", keys), _result(f"value.{index}", parts[1])]
    return ov.Model(results, [embedded, mask], "bart_encoder")


def decoder(tensor: Tensor, shape: Shape) -> ov.Model:
    """One token further. Inputs, besides `key.N` and `value.N` as `encoder` gives them:

    embedded float32 [rows, width]; position int64 [1], the same for all rows; beam_idx int32
    [rows], the row of the step before that each row goes on from; slots int32 [documents, most
    beams], the rows of each document (filled up with any row); back int32 [rows], where each row
    stands in `slots`, flattened; mask float32 [documents, 1, 1, tokens], 0 or -inf.

    Outputs: logits [rows, vocabulary filled up to whole blocks]; best [rows, blocks], the largest
    of each block; log_total [rows, 1], the logarithm of the sum of all exponentials.
    """
    net = _Net(tensor, shape, "model.decoder.")
    step = _Step.of(net.width)
    places = op.gather(net.positions(), step.position, _index(0))
    hidden = net.norm("layernorm_embedding", op.add(step.embedded, places))
    sinks: list[ov.Node] = []
    for index in range(shape.layers):
        name = f"layers.{index}."
        mixed = _self_attention(net, f"{name}self_attn.", hidden, step, sinks)
        hidden = net.attended(f"{name}self_attn", hidden, mixed)
        mixed = _cross_attention(net, index, hidden, step)
        hidden = net.attended(f"{name}encoder_attn", hidden, mixed)
        hidden = net.feed_forward(name, hidden)
    logits = net.product(hidden, _output_layer(tensor))
    blocks = op.reshape(logits, _ints(0, -1, BLOCK), True)
    best = op.reduce_max(blocks, _ints(2), False)
    most = op.reduce_max(best, _ints(1), True)
    total = op.reduce_sum(op.exp(op.subtract(logits, most)), _ints(1), True)
    results = [
        _result("logits", logits),
        _result("best", best),
        _result("log_total", op.add(op.log(total), most)),
    ]
    return ov.Model(results, sinks, step.parameters, "bart_decoder")


@dataclass(frozen=True, slots=True)
class _Step:
    """The inputs of a decoder step."""

    embedded: ov.Node
    position: ov.Node
    beam_idx: ov.Node
    slots: ov.Node
    back: ov.Node
    mask: ov.Node
    parameters: list[ov.Node]

    @classmethod
    def of(cls, width: int) -> "_Step":
        embedded = _parameter("embedded", [-1, width], np.float32)
        position = _parameter("position", [1], np.int64)
        beam_idx = _parameter("beam_idx", [-1], np.int32)
        slots = _parameter("slots", [-1, -1], np.int32)
        back = _parameter("back", [-1], np.int32)
        mask = _parameter("mask", [-1, 1, 1, -1], np.float32)
        every = [embedded, position, beam_idx, slots, back, mask]
        return cls(embedded, position, beam_idx, slots, back, mask, every)


def _self_attention(
    net: "_Net", name: str, hidden: ov.Node, step: _Step, sinks: list[ov.Node]
) -> ov.Node:
    """What a row wrote before is the engine's own state, which it reorders without copying."""
    row = op.unsqueeze(hidden, _ints(1))
    query, key, value = net.heads_of(name, "qkv", row, net.shape.heads)
    head_width = net.width // net.shape.heads
    rows = op.gather(op.shape_of(hidden), _ints(0), _index(0))
    empty = op.broadcast(
        op.constant(np.float32(0)), op.concat([rows, _ints(net.shape.heads, 0, head_width)], 0)
    )
    known = []
    for part, new in (("key", key), ("value", value)):
        variable = f"{name}{part}"
        shape = ov.PartialShape([-1, net.shape.heads, -1, head_width])
        past = op.gather(
            op.read_value(empty, variable, ov.Type.f32, shape), step.beam_idx, _index(0)
        )
        both = op.concat([past, new], 2)
        sinks.append(op.assign(both, variable))
        known.append(both)
    mixed = op.scaled_dot_product_attention(query, known[0], known[1], causal=False)
    return op.reshape(op.transpose(mixed, _ints(0, 2, 1, 3)), _ints(-1, net.width), False)


def _cross_attention(net: "_Net", index: int, hidden: ov.Node, step: _Step) -> ov.Node:
    """One product per document for all its beams. Keys come turned, as the product reads them."""
    heads, head_width = net.shape.heads, net.width // net.shape.heads
    keys = _parameter(f"key.{index}", [-1, heads, head_width, -1], np.float32)
    values = _parameter(f"value.{index}", [-1, heads, -1, head_width], np.float32)
    step.parameters.extend([keys, values])
    linear = net.linear(f"layers.{index}.encoder_attn.q_proj")
    scale = np.float32(head_width**-0.5)
    query = net.product(hidden, _Linear(linear.weight * scale, linear.bias * scale))
    by_document = op.gather(query, step.slots, _index(0))
    split = op.reshape(by_document, _ints(0, 0, heads, head_width), True)
    likeness = op.matmul(op.transpose(split, _ints(0, 2, 1, 3)), keys, False, False)
    weights = op.softmax(op.add(likeness, step.mask), 3)
    mixed = op.transpose(op.matmul(weights, values, False, False), _ints(0, 2, 1, 3))
    return op.gather(op.reshape(mixed, _ints(-1, net.width), False), step.back, _index(0))


class _Net:
    """The parts that both graphs are made of, over the tensors below `prefix`."""

    def __init__(self, tensor: Tensor, shape: Shape, prefix: str) -> None:
        self.shape = shape
        self._tensor = tensor
        self._prefix = prefix
        self.width = int(self.array("layernorm_embedding.weight").size)

    def array(self, name: str) -> Array:
        return self._tensor(self._prefix + name)

    def positions(self) -> ov.Node:
        """BART's table begins with two vectors that nothing uses."""
        return op.constant(self.array("embed_positions.weight")[2:])

    def linear(self, name: str) -> _Linear:
        return _Linear(self.array(f"{name}.weight"), self.array(f"{name}.bias"))

    def heads_of(self, name: str, parts: str, data: ov.Node, heads: int) -> list[ov.Node]:
        """[documents, heads, tokens, head width] of each of `parts` (of q, k, v), by one product
        over `data`, [documents, tokens, width]."""
        linears = [self.linear(f"{name}{part}_proj") for part in parts]
        fused = _Linear(
            np.concatenate([linear.weight for linear in linears]),
            np.concatenate([linear.bias for linear in linears]),
        )
        split = op.reshape(
            self.product(data, fused), _ints(0, 0, len(parts), heads, self.width // heads), True
        )
        by_part = op.split(split, _index(2), len(parts)).outputs()
        return [op.transpose(op.squeeze(part, _ints(2)), _ints(0, 2, 1, 3)) for part in by_part]

    def attended(self, name: str, hidden: ov.Node, mixed: ov.Node) -> ov.Node:
        """The end of an attention: its output product, what went in, LayerNorm."""
        joined = op.reshape(mixed, op.shape_of(hidden), False)
        product = self.product(joined, self.linear(f"{name}.out_proj"))
        return self.norm(f"{name}_layer_norm", op.add(hidden, product))

    def feed_forward(self, name: str, hidden: ov.Node) -> ov.Node:
        inner = self.product(hidden, self.linear(f"{name}fc1"))
        outer = self.product(ACTIVATIONS[self.shape.activation](inner), self.linear(f"{name}fc2"))
        return self.norm(f"{name}final_layer_norm", op.add(hidden, outer))

    def norm(self, name: str, data: ov.Node) -> ov.Node:
        centred = op.mvn(data, _ints(-1), True, EPSILON, "inside_sqrt")
        scaled = op.multiply(centred, op.constant(self.array(f"{name}.weight")))
        return op.add(scaled, op.constant(self.array(f"{name}.bias")))

    def product(self, data: ov.Node, linear: _Linear) -> ov.Node:
        weight = _quantised(linear.weight) if self.shape.quantised else op.constant(linear.weight)
        return op.add(op.matmul(data, weight, False, True), op.constant(linear.bias))


def _quantised(weight: Array) -> ov.Node:
    """int8, symmetric, one scale per output."""
    scale = np.maximum(np.abs(weight).max(axis=1, keepdims=True), np.float32(1e-12)) / 127
    numbers = np.rint(weight / scale).astype(np.int8)
    return op.multiply(op.convert(op.constant(numbers), "f32"), op.constant(scale))


def _output_layer(tensor: Tensor) -> _Linear:
    """Filled up to whole blocks with outputs that never win."""
    weight, bias = tensor("lm_head.weight"), tensor("final_logits_bias").reshape(-1)
    missing = -len(weight) % BLOCK
    return _Linear(
        np.pad(weight, ((0, missing), (0, 0))),
        np.pad(bias, (0, missing), constant_values=NEVER),
    )


def _parameter(name: str, shape: list[int], kind: Any) -> ov.Node:
    node = op.parameter(shape, kind, name=name)
    node.output(0).get_tensor().set_names({name})
    return node


def _result(name: str, node: ov.Node) -> ov.Node:
    result = op.result(node)
    result.output(0).get_tensor().set_names({name})
    return result


def _ints(*values: int) -> ov.Node:
    return op.constant(np.array(values, np.int64))


def _index(value: int) -> ov.Node:
    return op.constant(np.array(value, np.int64))
