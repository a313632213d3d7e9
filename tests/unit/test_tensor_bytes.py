"""Tensors to bytes or lists and back, and what hostile ones meet."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from app.core.errors import InvalidRequest
from app.core.tensor_bytes import (
    array_of_bytes,
    array_of_values,
    bytes_of_array,
    bytes_of_texts,
    count_of,
    flat,
    texts_of_bytes,
    values_of_array,
)
from app.core.tensors import DATATYPES

NUMBERS = [name for name in DATATYPES if name != "BYTES"]
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


def some(datatype):
    dtype, shape = DATATYPES[datatype], arrays.array_shapes(max_dims=4, max_side=4)
    if dtype.kind != "f":
        return arrays.arrays(dtype, shape)
    finite = arrays.from_dtype(dtype, allow_nan=False, allow_infinity=False)
    return arrays.arrays(dtype, shape, elements=finite)


ARRAYS = st.sampled_from(NUMBERS).flatmap(lambda name: st.tuples(st.just(name), some(name)))


@given(ARRAYS)
def test_numbers_come_back_from_bytes_and_from_lists(named):
    datatype, array = named
    raw = bytes_of_array(array)
    assert bytes_of_array(array_of_bytes("x", raw, datatype, array.size)) == raw
    for data, shape in ((array.tolist(), array.shape), (array.ravel().tolist(), (array.size,))):
        values, found = flat("x", data, datatype)
        assert found == shape
        assert bytes_of_array(array_of_values("x", values, datatype)) == raw
    assert values_of_array("x", array) == array.ravel().tolist()


@given(st.lists(TEXT, min_size=1, max_size=8))
def test_strings_come_back_from_bytes_and_from_lists(texts):
    assert texts_of_bytes("x", bytes_of_texts(texts), len(texts)) == texts
    assert array_of_values("x", flat("x", texts, "BYTES")[0], "BYTES").tolist() == texts
    assert bytes_of_array(np.array(texts, object)) == bytes_of_texts(texts)


@given(st.binary(max_size=64), st.sampled_from(list(DATATYPES)), st.integers(1, 2**70))
def test_any_bytes_of_any_claimed_size_are_read_or_refused(raw, datatype, count):
    try:
        array = array_of_bytes("x", raw, datatype, count)
    except InvalidRequest:
        return
    assert array.size == count


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=2),
)


@given(JSON, st.sampled_from(list(DATATYPES)))
def test_any_json_is_read_or_refused(data, datatype):
    try:
        values, shape = flat("x", data, datatype)
        array = array_of_values("x", values, datatype)
    except InvalidRequest:
        return
    assert array.size == count_of("x", shape)


@pytest.mark.parametrize(
    "shape",
    [None, "12", [1.0], [True], [0], [-1], [2] * 33, [[1]], {"a": 1}],
)
def test_what_is_no_shape_is_refused(shape):
    with pytest.raises(InvalidRequest, match=r"x\.shape"):
        count_of("x", shape)


def test_sizes_do_not_overflow():
    assert count_of("x", [2**62] * 4) == 2**248


def test_one_long_string_among_many_is_not_padded_to_all():
    with pytest.raises(InvalidRequest, match="at most 4194304 are taken"):
        array_of_values("x", ["a" * 10**6, *["b"] * 10**4], "BYTES")


def test_lists_nested_without_end_are_refused():
    data: list[object] = [1]
    for _ in range(10_000):
        data = [data]
    with pytest.raises(InvalidRequest, match="nested deeper than 32 lists"):
        flat("x", data, "FP32")
