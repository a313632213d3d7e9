import math

import numpy as np
import pytest

from app.core import tensor_bytes
from app.core.errors import InvalidRequest
from app.core.tensors import Signature, TensorSpec
from app.tasks import tensors
from app.tasks.tensors import RunTensors

SIGNATURE = Signature(
    inputs=(
        TensorSpec("x", "FP32", (None, 2)),
        TensorSpec("ids", "INT8", (None, None)),
        TensorSpec("mask", "BOOL", (None,)),
    ),
    outputs=(TensorSpec("y", "FP16", (None, 2)), TensorSpec("n", "INT64", (None,))),
)
GOOD = {"x": [[1, 2.5]], "ids": [[1, 2, 3]], "mask": [True]}


def a_task():
    task = RunTensors()
    task.fit(SIGNATURE)
    return task


def prepare(outputs=None, **inputs):
    return a_task().prepare({**GOOD, **inputs}, {"outputs": outputs}, None)


def arrays_of(prepared):
    return prepared.rows[0].arrays


def finish(outputs, wanted=None):
    return a_task().finish(prepare(wanted), [outputs], {}).value


def test_a_list_alone_takes_the_models_own_type():
    arrays = arrays_of(prepare())

    assert {name: array.dtype.name for name, array in arrays.items()} == {
        "x": "float32",
        "ids": "int8",
        "mask": "bool",
    }
    assert arrays["x"].tolist() == [[1.0, 2.5]]


@pytest.mark.parametrize("data", [[1, 2, 3, 4.5], [[1, 2], [3, 4.5]]], ids=["row-major", "nested"])
def test_data_may_be_flat_or_nested(data):
    x = {"datatype": "FP32", "shape": [2, 2], "data": data}

    assert arrays_of(prepare(x=x))["x"].tolist() == [[1.0, 2.0], [3.0, 4.5]]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"z": [1]}, "inputs.z is unknown; the model takes: x, ids, mask"),
        ({"x": [1, 2]}, "inputs.x.shape is [2], the model takes [-1, 2]"),
        ({"x": [[1, 2, 3]]}, "inputs.x.shape is [1, 3], the model takes [-1, 2]"),
        ({"x": [[1], [2, 3]]}, "inputs.x must be numbers in lists of equal length"),
        ({"x": [["a", "b"]]}, "inputs.x must be numbers"),
        ({"x": [[None, 1]]}, "inputs.x must be numbers"),
        ({"x": [[{}, 1]]}, "inputs.x must be numbers"),
        ({"x": []}, "inputs.x is empty"),
        ({"x": [[1e39, 1]]}, "inputs.x has a number out of the range of FP32"),
        ({"ids": [[1.5]]}, "inputs.ids must be integers"),
        ({"ids": [[128]]}, "inputs.ids has a number out of the range of INT8"),
        ({"ids": [[2**64, 1]]}, "inputs.ids has a number out of the range of INT8"),
        ({"ids": [[True]]}, "inputs.ids must be integers"),
        ({"mask": [1]}, "inputs.mask must be booleans"),
        ({"x": {"shape": [1, 2]}}, "inputs.x.data is missing"),
        ({"x": {"data": [1], "dtype": "FP32"}}, "inputs.x.dtype is unknown; it takes: datatype"),
        ({"x": {"data": [[1, 2]], "datatype": "FP64"}}, "inputs.x.datatype is 'FP64', the model"),
        ({"x": {"data": [[1, 2]], "datatype": ["FP32"]}}, "inputs.x.datatype is ['FP32']"),
        ({"x": {"data": [1, 2, 3], "shape": [1, 2]}}, "inputs.x.shape is [1, 2], that is 2 values"),
        ({"x": {"data": [[1, 2]], "shape": [2, 1]}}, "inputs.x.shape is [2, 1], data is [1, 2]"),
        ({"x": {"data": [1, 2], "shape": [0, 2]}}, "inputs.x.shape must be a list of integers"),
        ({"x": {"data": [1, 2], "shape": "12"}}, "inputs.x.shape must be a list of integers"),
        ({"x": {"data": [1, 2], "shape": [10**18, 10**18]}}, "inputs.x.shape is [1000"),
        ({"x": {"data": [1, 2], "shape": [2] * 33}}, "inputs.x.shape has 33 dimensions"),
        ({"x": [[1, True]]}, "inputs.x must be numbers"),
        ({"x": ["a" * 10**6, *[1] * 10**5]}, "inputs.x must be numbers"),  # 400 GB to numpy
        ({"x": {"data": bytes(4), "shape": [1, 2]}}, "inputs.x.data has 4 bytes; its shape"),
        ({"x": {"data": bytes(8)}}, "inputs.x.shape must be a list of integers"),
        ({"x": {"data": bytes(8), "shape": [2**40, 2**40]}}, "inputs.x.shape is [1099511627776"),
        ({"mask": {"data": b"\2", "shape": [1]}}, "inputs.mask.data has a byte other than 0 and 1"),
    ],
)
def test_what_does_not_fit_is_told_by_field(inputs, message):
    with pytest.raises(InvalidRequest) as refused:
        prepare(**inputs)

    assert str(refused.value).startswith(message)


def test_an_input_that_is_missing_is_named():
    with pytest.raises(InvalidRequest, match=r"inputs\.ids is missing; the model takes: x, ids"):
        a_task().prepare({"x": [[1, 2]], "mask": [True]}, {}, None)


def test_a_row_costs_its_first_dimension():
    several = prepare(x=[[1, 2]] * 5, ids=[[1]] * 5, mask=[True] * 5)

    assert [len(row) for row in several.rows] == [5]


def test_requests_that_differ_in_the_first_dimension_alone_may_share_a_batch():
    one, three = prepare(), prepare(x=[[1, 2]] * 3, ids=[[1, 2, 3]] * 3, mask=[True] * 3)
    longer = prepare(ids=[[1, 2, 3, 4]])

    assert one.settings == three.settings
    assert one.settings != longer.settings


def test_a_request_whose_inputs_disagree_in_it_shares_none():
    assert prepare(x=[[1, 2]] * 2).settings is None


def test_outputs_come_as_they_would_be_sent():
    given = {"y": np.array([[1, 2]], np.float16), "n": np.array([3], np.int64)}

    assert finish(given) == {
        "y": {"datatype": "FP16", "shape": [1, 2], "data": [1.0, 2.0]},
        "n": {"datatype": "INT64", "shape": [1], "data": [3]},
    }
    assert list(finish(given, ["n"])) == ["n"]


def test_an_output_that_does_not_exist_cannot_be_wanted():
    with pytest.raises(InvalidRequest, match=r"parameters\.outputs\.z is unknown.*gives: y, n"):
        prepare(["z"])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_json_cannot_hold_is_refused_by_output(value):
    given = {"y": np.array([[value, 0]], np.float16), "n": np.array([3], np.int64)}

    with pytest.raises(InvalidRequest, match="outputs.y has NaN or Infinity"):
        finish(given)
    assert finish(given, ["n"])["n"]["data"] == [3]


def test_outputs_of_more_numbers_than_an_answer_takes_are_refused(monkeypatch):
    monkeypatch.setattr(tensor_bytes, "MAX_OUTPUT_NUMBERS", 2)
    given = {"y": np.zeros((1, 2), np.float16), "n": np.array([3], np.int64)}

    with pytest.raises(InvalidRequest, match="outputs have 3 numbers, at most 2"):
        finish(given)


def test_bytes_are_taken_and_given_as_they_are():
    raw = np.array([[1, math.nan]], "<f4").tobytes()
    arrays = arrays_of(prepare(x={"data": raw, "shape": [1, 2], "datatype": "FP32"}))
    assert arrays["x"].tobytes() == raw

    y = np.array([[1, math.nan]], np.float16)
    given = {"y": y, "n": np.array([3], np.int64)}
    assert a_task().finish(prepare(), [given], {"binary": True}).value == {
        "y": {"datatype": "FP16", "shape": [1, 2], "data": y.tobytes()},
        "n": {"datatype": "INT64", "shape": [1], "data": (3).to_bytes(8, "little")},
    }


def test_outputs_of_more_bytes_than_an_answer_takes_are_refused(monkeypatch):
    monkeypatch.setattr(tensors, "MAX_OUTPUT_BYTES", 11)
    given = {"y": np.zeros((1, 2), np.float16), "n": np.array([3], np.int64)}

    with pytest.raises(InvalidRequest, match="outputs have 12 bytes, at most 11"):
        a_task().finish(prepare(), [given], {"binary": True})
