"""Small graphs made of OpenVINO's own operations, and a tokenizer for those that read words."""

from pathlib import Path

import numpy as np
import openvino as ov
from openvino import opset13 as op
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = [f"w{number}" for number in range(60)]
WIDTH, HEADS = 128, 4
SPECIAL = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3}


def save(path: Path, outputs: dict[str, ov.Node], inputs: list[ov.Node]) -> str:
    results = []
    for name, node in outputs.items():
        result = op.result(node)
        result.output(0).get_tensor().set_names({name})
        results.append(result)
    for parameter in inputs:
        parameter.output(0).get_tensor().set_names({parameter.get_friendly_name()})
    ov.save_model(ov.Model(results, inputs, "test"), path, compress_to_fp16=False)
    return str(path)


def doubled(path: Path) -> str:
    """y = 2 x + [0, 1], n = sum over x's row as an integer: rows are independent."""
    x = op.parameter([-1, 2], np.float32, name="x")
    y = op.add(op.multiply(x, np.float32(2)), op.constant(np.array([0, 1], np.float32)))
    n = op.convert(op.reduce_sum(x, op.constant(np.array([1]))), "i64")
    return save(path, {"y": y, "n": n}, [x])


def whole_mean(path: Path) -> str:
    """Each row less the mean over all rows: the first dimension is no batch."""
    x = op.parameter([-1, 2], np.float32, name="x")
    mean = op.reduce_mean(x, op.constant(np.array([0])), True)
    return save(path, {"y": op.subtract(x, mean)}, [x])


def added(path: Path) -> str:
    """a + b of any equal shapes; log of it as a second output."""
    a = op.parameter([-1, -1], np.float32, name="a")
    b = op.parameter([-1, -1], np.float32, name="b")
    total = op.add(a, b, auto_broadcast="none")
    return save(path, {"sum": total, "log": op.log(total)}, [a, b])


def with_text(path: Path) -> str:
    """Picks strings by their index."""
    x = op.parameter([-1], ov.Type.string, name="x")
    i = op.parameter([-1], np.int64, name="i")
    return save(path, {"y": op.gather(x, i, op.constant(np.array(0)))}, [x, i])


def with_small_floats(path: Path) -> str:
    """Takes a type that has no name among tensors' datatypes."""
    x = op.parameter([-1], ov.Type.bf16, name="x")
    return save(path, {"y": op.shape_of(x)}, [x])


def tokenizer(path: Path) -> str:
    """One token per word, `[CLS] a [SEP] b [SEP]`, the second text of type 1."""
    vocabulary = {**SPECIAL, **{word: 4 + index for index, word in enumerate(WORDS)}}
    built = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    built.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    built.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    built.save(str(path))
    return str(path)


def encoder(path: Path, *, labels: int = 0, fixed: bool = False, int8: bool = True) -> str:
    """One layer of attention over vectors of words and types of tokens.

    labels: `logits` of the first token; 0: `last_hidden_state`. int8: how its weights are kept.
    """
    source = np.random.default_rng(7)
    shape = [1, 16] if fixed else [-1, -1]
    ids, mask, types = (
        op.parameter(shape, np.int64, name=name)
        for name in ("input_ids", "attention_mask", "token_type_ids")
    )
    first = op.constant(np.array(0, np.int64))
    words = source.normal(size=(4 + len(WORDS), WIDTH)).astype(np.float32)
    kinds = source.normal(size=(2, WIDTH)).astype(np.float32)
    hidden = op.add(op.gather(words, ids, first), op.gather(kinds, types, first))
    parts = [_split(_product(source, hidden, WIDTH, int8)) for _ in range(3)]
    may_see = op.unsqueeze(op.convert(mask, "boolean"), op.constant(np.array([1, 2])))
    mixed = op.scaled_dot_product_attention(*parts, may_see, causal=False)
    joined = op.reshape(
        op.transpose(mixed, op.constant(np.array([0, 2, 1, 3]))),
        op.constant(np.array([0, 0, WIDTH])),
        True,
    )
    hidden = op.add(hidden, _product(source, joined, WIDTH, int8))
    if not labels:
        return save(path, {"last_hidden_state": hidden}, [ids, mask, types])
    cls = op.gather(hidden, first, op.constant(np.array(1, np.int64)))
    return save(path, {"logits": _product(source, cls, labels, int8)}, [ids, mask, types])


def _product(source: np.random.Generator, data: ov.Node, width: int, int8: bool) -> ov.Node:
    weight = source.integers(-127, 128, size=(width, WIDTH)).astype(np.int8)
    scale = np.full((width, 1), 0.001, np.float32)
    if not int8:
        return op.matmul(data, op.constant(weight * scale), False, True)
    kept = op.multiply(op.convert(op.constant(weight), "f32"), op.constant(scale))
    return op.matmul(data, kept, False, True)


def _split(data: ov.Node) -> ov.Node:
    shape = op.constant(np.array([0, 0, HEADS, WIDTH // HEADS]))
    return op.transpose(op.reshape(data, shape, True), op.constant(np.array([0, 2, 1, 3])))
