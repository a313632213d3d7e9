"""Tensors in, tensors out: any graph, by the names, types and shapes of its own.

Requests use the Open Inference Protocol's words. What a request may say is decided by the model's
signature, so a wrong name, type or shape is told by field before anything runs.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from app.core.errors import InvalidRequest
from app.core.tensors import DATATYPE_NAMES, DATATYPES, Array, Signature, Tensors, TensorSpec
from app.core.types import Answer
from app.tasks.base import Prepared

MAX_OUTPUT_NUMBERS = 1_000_000  # in one answer; JSON of more takes seconds to write and to read
_FIELDS = ("datatype", "shape", "data")


class RunTensors:
    """One row per request; its cost to the scheduler is its first dimension."""

    def __init__(self) -> None:
        self._signature = Signature((), ())

    def fit(self, signature: Signature) -> None:
        self._signature = signature

    def prepare(
        self, text: Mapping[str, Any], parameters: Mapping[str, Any], tokenizer: object
    ) -> Prepared:
        """text: the request's `inputs`."""
        specs = {spec.name: spec for spec in self._signature.inputs}
        _check_names("inputs", text, specs, "the model takes")
        for name in specs:
            if name not in text:
                raise InvalidRequest(
                    f"inputs.{name} is missing; {_listed('the model takes', specs)}"
                )
        wanted = parameters.get("outputs")
        outputs = {spec.name: spec for spec in self._signature.outputs}
        _check_names("parameters.outputs", wanted or (), outputs, "the model gives")
        arrays = {name: read(f"inputs.{name}", text[name], spec) for name, spec in specs.items()}
        return Prepared(
            (Tensors(arrays),),
            input_tokens=0,
            state=tuple(outputs if wanted is None else wanted),
            settings=_likeness(arrays),
        )

    def finish(
        self, prepared: Prepared, outputs: Sequence[Any], parameters: Mapping[str, Any]
    ) -> Answer:
        arrays: Mapping[str, Array] = outputs[0]
        wanted: tuple[str, ...] = prepared.state
        numbers = sum(arrays[name].size for name in wanted)
        if numbers > MAX_OUTPUT_NUMBERS:
            raise InvalidRequest(
                f"the outputs have {numbers} numbers, at most {MAX_OUTPUT_NUMBERS} are returned; "
                "send less at once, or name fewer in parameters.outputs"
            )
        return Answer({name: _written(name, arrays[name]) for name in wanted})


def _check_names(
    field: str, given: Mapping[str, Any] | Sequence[str], known: Mapping[str, Any], words: str
) -> None:
    for name in given:
        if name not in known:
            raise InvalidRequest(f"{field}.{name[:64]} is unknown; {_listed(words, known)}")


def _listed(words: str, known: Mapping[str, Any]) -> str:
    return f"{words}: {', '.join(known) or 'none'}"


def read(field: str, given: Any, spec: TensorSpec) -> Array:
    """The array that was sent, in the model's type. Raises InvalidRequest naming the field.

    given: {datatype, shape, data} with data flat or nested, or the (nested) list alone.
    """
    if not isinstance(given, Mapping):
        return _fitting(field, _numbers(field, given, spec), spec)
    for name in given:
        if name not in _FIELDS:
            raise InvalidRequest(f"{field}.{name[:64]} is unknown; it takes: {', '.join(_FIELDS)}")
    if "data" not in given:
        raise InvalidRequest(f"{field}.data is missing")
    datatype = given.get("datatype", spec.datatype)
    if datatype != spec.datatype:
        raise InvalidRequest(f"{field}.datatype is {datatype!r}, the model takes {spec.datatype}")
    array = _numbers(f"{field}.data", given["data"], spec)
    if "shape" in given:
        array = _shaped(field, array, given["shape"])
    return _fitting(field, array, spec)


def _numbers(field: str, data: Any, spec: TensorSpec) -> Array:
    """Checked for kind and range, because numpy converts whatever it can."""
    try:
        array = np.asarray(data)
    except (ValueError, OverflowError):  # what it says of lists of unequal length
        raise InvalidRequest(f"{field} must be numbers in lists of equal length") from None
    dtype = DATATYPES[spec.datatype]
    if not array.size:
        raise InvalidRequest(f"{field} is empty")
    kinds = {"b": "b", "i": "iu", "u": "iu", "f": "fiu"}[dtype.kind]
    if array.dtype.kind not in kinds:
        words = {"b": "booleans", "i": "integers", "u": "integers", "f": "numbers"}[dtype.kind]
        raise InvalidRequest(f"{field} must be {words} in lists of equal length ({spec.datatype})")
    if dtype.kind in "iu":
        least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
        if int(array.min()) < least or int(array.max()) > most:
            raise InvalidRequest(f"{field} has a number out of the range of {spec.datatype}")
    with np.errstate(over="ignore"):
        converted = array.astype(dtype)
    if dtype.kind == "f" and not np.isfinite(converted).all():
        raise InvalidRequest(f"{field} has a number out of the range of {spec.datatype}")
    return converted


def _shaped(field: str, array: Array, shape: Any) -> Array:
    is_shape = isinstance(shape, Sequence) and all(type(size) is int for size in shape)
    if not is_shape or any(size < 1 for size in shape):
        raise InvalidRequest(f"{field}.shape must be a list of integers, each at least 1")
    wanted = tuple(shape)
    if array.ndim > 1 and array.shape != wanted:
        raise InvalidRequest(f"{field}.shape is {list(wanted)}, data is {list(array.shape)}")
    product = 1
    for size in wanted:
        product *= size
    if product != array.size:
        raise InvalidRequest(
            f"{field}.shape is {list(wanted)}, that is {product} numbers; data has {array.size}"
        )
    return array.reshape(wanted)


def _fitting(field: str, array: Array, spec: TensorSpec) -> Array:
    fits = array.ndim == len(spec.shape) and all(
        wanted is None or wanted == size
        for wanted, size in zip(spec.shape, array.shape, strict=True)
    )
    if not fits:
        raise InvalidRequest(
            f"{field}.shape is {list(array.shape)}, the model takes {spec.shown_shape} "
            "(-1: any size)"
        )
    return array


def _likeness(arrays: Mapping[str, Array]) -> Hashable:
    """What requests must have in common to be run as one, by putting them one below the other;
    None where the inputs do not agree in their first dimension, so that nothing can be below."""
    firsts = {array.shape[0] if array.ndim else None for array in arrays.values()}
    if len(firsts) != 1 or None in firsts:
        return None
    return tuple((name, array.shape[1:]) for name, array in arrays.items())


def _written(name: str, array: Array) -> dict[str, Any]:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InvalidRequest(
            f"outputs.{name} has NaN or Infinity for these inputs, which JSON cannot hold"
        )
    return {
        "datatype": DATATYPE_NAMES[array.dtype],
        "shape": list(array.shape),
        "data": array.ravel().tolist(),
    }
