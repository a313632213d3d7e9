"""Attention whose sums have the same order however long a row is padded.

The CPU sums a softmax sixteen numbers at a time and the rest one by one, so the same row gets
another last bit when it is padded to another length. Quantised activations make that last bit a
visible difference: 0.004 in the probabilities of an int8 RoBERTa-base, alone and in a batch. With
keys in multiples of sixteen every sum has the same order, and the difference is 0. Filling up
inside attention costs a few per cent; padding whole rows would cost up to half of the speed of
short ones.
"""

import numpy as np
import openvino as ov
from openvino import opset13 as op

LANES = 16  # float32 numbers in the CPU's widest vector
_KEY, _VALUE, _MASK = 1, 2, 3


def fill_keys(model: ov.Model) -> int:
    """Fill up the keys of every attention node; returns what rows are to be padded to.

    That is 1, or LANES where a graph's attention is not in nodes that can be filled up.
    """
    nodes = [node for node in model.get_ordered_ops() if node.get_type_name() == _ATTENTION]
    if not nodes or not all(_can_be_filled(node) for node in nodes):
        return LANES
    masks: dict[tuple[str, int], ov.Node] = {}  # mostly one for all layers
    for node in nodes:
        missing = _missing(node.input(_KEY).get_source_output())
        for port in (node.input(_KEY), node.input(_VALUE)):
            filled = _filled(port.get_source_output(), missing, axis=2)
            port.replace_source_output(filled.output(0))
        mask = node.input(_MASK).get_source_output()
        key = (mask.get_node().get_friendly_name(), mask.get_index())
        if key not in masks:
            masks[key] = _filled_mask(mask, missing)
        node.input(_MASK).replace_source_output(masks[key].output(0))
    model.validate_nodes_and_infer_types()
    return 1


_ATTENTION = "ScaledDotProductAttention"


def _can_be_filled(node: ov.Node) -> bool:
    """Whether it is of rank 4 with a mask that says of every key whether it may be seen."""
    if node.get_attributes()["causal"] or len(node.inputs()) <= _MASK:
        return False
    shapes = [node.input(index).get_partial_shape() for index in (_KEY, _VALUE, _MASK)]
    return all(len(shape) == 4 for shape in shapes) and shapes[-1][3].is_dynamic


def _missing(keys: ov.Output) -> ov.Node:
    tokens = op.gather(op.shape_of(keys), _ints(2), op.constant(np.array(0, np.int64)))
    return op.floor_mod(op.negative(tokens), _ints(LANES))


def _filled(data: ov.Output, missing: ov.Node, *, axis: int, value: float = 0.0) -> ov.Node:
    end = [_ints(0)] * 4
    end[axis] = missing
    fill = op.convert_like(op.constant(np.array(value, np.float32)), data)
    return op.pad(data, _ints(0, 0, 0, 0), op.concat(end, 0), "constant", fill)


def _filled_mask(mask: ov.Output, missing: ov.Node) -> ov.Node:
    """A mask of booleans says who is seen; one of numbers is added, the lowest hides."""
    if mask.get_element_type() == ov.Type.boolean:
        numbers = op.convert(mask, "u8")
        return op.convert(_filled(numbers.output(0), missing, axis=3), "boolean")
    return _filled(mask, missing, axis=3, value=float(np.finfo(np.float32).min))


def _ints(*values: int) -> ov.Node:
    return op.constant(np.array(values, np.int64))
