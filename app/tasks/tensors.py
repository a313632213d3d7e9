"""Tensors in, tensors out: any graph, by the names, types and shapes of its own.

Requests use the Open Inference Protocol's words. What a request may say is decided by the model's
signature, so a wrong name, type or shape is told by field before anything runs.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any

from app.core.errors import InvalidRequest
from app.core.tensor_bytes import (
    MAX_OUTPUT_BYTES,
    array_of_bytes,
    array_of_values,
    bytes_of_array,
    check_output_numbers,
    count_of,
    flat,
    values_of_array,
)
from app.core.tensors import DATATYPE_NAMES, Array, Signature, Tensors, TensorSpec
from app.core.types import Answer
from app.tasks.base import Prepared

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
        if parameters.get("binary", False):
            _check_bytes(sum(arrays[name].nbytes for name in wanted))
            return Answer({name: _shown(arrays[name], bytes_of_array) for name in wanted})
        check_output_numbers(sum(arrays[name].size for name in wanted))
        return Answer(
            {
                name: _shown(arrays[name], partial(values_of_array, f"outputs.{name}"))
                for name in wanted
            }
        )


def _check_bytes(size: int) -> None:
    if size > MAX_OUTPUT_BYTES:
        raise InvalidRequest(
            f"the outputs have {size} bytes, at most {MAX_OUTPUT_BYTES} are returned; "
            "send less at once, or name fewer in parameters.outputs"
        )


def _shown(array: Array, written: Callable[[Array], Any]) -> dict[str, Any]:
    datatype = "BYTES" if array.dtype.kind == "U" else DATATYPE_NAMES[array.dtype]
    return {"datatype": datatype, "shape": list(array.shape), "data": written(array)}


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

    given: {datatype, shape, data} with data flat, nested or raw bytes, or the (nested) list alone.
    """
    if not isinstance(given, Mapping):
        values, shape = flat(field, given, spec.datatype)
        _check_fits(field, shape, spec)
        return array_of_values(field, values, spec.datatype).reshape(shape)
    for name in given:
        if name not in _FIELDS:
            raise InvalidRequest(f"{field}.{name[:64]} is unknown; it takes: {', '.join(_FIELDS)}")
    if "data" not in given:
        raise InvalidRequest(f"{field}.data is missing")
    datatype = given.get("datatype", spec.datatype)
    if datatype != spec.datatype:
        raise InvalidRequest(
            f"{field}.datatype is {repr(datatype)[:64]}, the model takes {spec.datatype}"
        )
    if isinstance(given["data"], bytes):
        return _read_bytes(field, given["data"], given.get("shape"), spec)
    values, nested = flat(f"{field}.data", given["data"], datatype)
    shape = _shape(field, given["shape"], nested, len(values)) if "shape" in given else nested
    _check_fits(field, shape, spec)
    return array_of_values(f"{field}.data", values, datatype).reshape(shape)


def _read_bytes(field: str, data: bytes, shape: Any, spec: TensorSpec) -> Array:
    count = count_of(field, shape)
    _check_fits(field, tuple(shape), spec)
    return array_of_bytes(f"{field}.data", data, spec.datatype, count).reshape(shape)


def _shape(field: str, given: Any, nested: tuple[int, ...], values: int) -> tuple[int, ...]:
    """The shape that was sent beside the values, which may be flat."""
    count = count_of(field, given)
    wanted = tuple(given)
    if len(nested) > 1 and nested != wanted:
        raise InvalidRequest(f"{field}.shape is {list(wanted)}, data is {list(nested)}")
    if count != values:
        raise InvalidRequest(
            f"{field}.shape is {list(wanted)}, that is {count} values; data has {values}"
        )
    return wanted


def _check_fits(field: str, shape: tuple[int, ...], spec: TensorSpec) -> None:
    fits = len(shape) == len(spec.shape) and all(
        wanted is None or wanted == size for wanted, size in zip(spec.shape, shape, strict=True)
    )
    if not fits:
        raise InvalidRequest(
            f"{field}.shape is {list(shape)}, the model takes {spec.shown_shape} (-1: any size)"
        )


def _likeness(arrays: Mapping[str, Array]) -> Hashable:
    """What requests must have in common to be run as one, by putting them one below the other;
    None where the inputs do not agree in their first dimension, so that nothing can be below."""
    firsts = {array.shape[0] if array.ndim else None for array in arrays.values()}
    if len(firsts) != 1 or None in firsts:
        return None
    return tuple((name, array.shape[1:]) for name, array in arrays.items())
