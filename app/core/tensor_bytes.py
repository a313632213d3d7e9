"""Tensors as they travel: raw little-endian bytes, or values in lists, both of a stranger.

Every size is checked against what was really sent before anything of that size is made; shapes are
multiplied as Python's own integers, which do not overflow.
"""

import struct
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from app.core.errors import InvalidRequest
from app.core.tensors import DATATYPES, Array

MAX_DIMENSIONS = 32
MAX_OUTPUT_NUMBERS = 1_000_000  # in one JSON answer; more takes seconds to write and to read
MAX_OUTPUT_BYTES = 64 * 2**20  # in one answer of raw bytes
MAX_PADDED_CHARS = 4 * 2**20  # of the texts of one tensor; engines pad them to one length

_LENGTH = struct.Struct("<I")
_LEAVES: dict[str, tuple[frozenset[type], str]] = {
    "b": (frozenset({bool}), "booleans"),
    "i": (frozenset({int}), "integers"),
    "u": (frozenset({int}), "integers"),
    "f": (frozenset({int, float}), "numbers"),
    "O": (frozenset({str}), "strings"),
}


def count_of(field: str, shape: Any) -> int:
    """How many values a shape holds. Raises InvalidRequest for what is no shape."""
    is_shape = isinstance(shape, Sequence) and all(type(size) is int for size in shape)
    if not is_shape or any(size < 1 for size in shape):
        raise InvalidRequest(f"{field}.shape must be a list of integers, each at least 1")
    if len(shape) > MAX_DIMENSIONS:
        raise InvalidRequest(
            f"{field}.shape has {len(shape)} dimensions, at most {MAX_DIMENSIONS} are taken"
        )
    count = 1
    for size in shape:
        count *= size
    return count


def flat(field: str, data: Any, datatype: str) -> tuple[list[Any], tuple[int, ...]]:
    """The values of nested lists, row by row, and their shape.

    Raises InvalidRequest for other types and for lists of unequal length: numpy would make room
    for the longest of any strings among the numbers.
    """
    leaves, words = _LEAVES[DATATYPES[datatype].kind]
    wrong = InvalidRequest(f"{field} must be {words} in lists of equal length ({datatype})")
    if not isinstance(data, list | tuple):
        return _checked([data], leaves, wrong), ()
    shape, level = [len(data)], list(data)
    while level and isinstance(level[0], list | tuple):
        if len(shape) == MAX_DIMENSIONS:
            raise InvalidRequest(f"{field} is nested deeper than {MAX_DIMENSIONS} lists")
        if not all(isinstance(part, list | tuple) for part in level):
            raise wrong
        lengths = set(map(len, level))
        if len(lengths) > 1:
            raise wrong
        shape += lengths
        level = list(chain.from_iterable(level))
    if not level:
        raise InvalidRequest(f"{field} is empty")
    return _checked(level, leaves, wrong), tuple(shape)


def _checked(values: list[Any], leaves: frozenset[type], wrong: InvalidRequest) -> list[Any]:
    if not set(map(type, values)) <= leaves:
        raise wrong
    return values


def array_of_values(field: str, values: list[Any], datatype: str) -> Array:
    """One dimension of the datatype, from values that `flat` has checked."""
    dtype = DATATYPES[datatype]
    if dtype.kind == "O":
        return _texts(field, values)
    try:
        with np.errstate(over="ignore"):
            array = np.array(values, np.float64 if dtype.kind == "f" else dtype).astype(dtype)
    except OverflowError:
        raise InvalidRequest(f"{field} has a number out of the range of {datatype}") from None
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise InvalidRequest(f"{field} has a number out of the range of {datatype}")
    return array


def array_of_bytes(field: str, raw: bytes, datatype: str, count: int) -> Array:
    """One dimension of `count` values, exactly as many as the bytes hold. Raises InvalidRequest."""
    dtype = DATATYPES[datatype]
    if dtype.kind == "O":
        return _texts(field, texts_of_bytes(field, raw, count))
    expected = count * dtype.itemsize
    if len(raw) != expected:
        raise InvalidRequest(
            f"{field} has {len(raw)} bytes; its shape and {datatype} make {expected}"
        )
    if dtype.kind == "b":
        bits = np.frombuffer(raw, np.uint8)
        if bits.max() > 1:
            raise InvalidRequest(f"{field} has a byte other than 0 and 1 ({datatype})")
        return bits.astype(dtype)
    return np.frombuffer(raw, dtype.newbyteorder("<")).astype(dtype, copy=False)


def texts_of_bytes(field: str, raw: bytes, count: int) -> list[str]:
    """Strings, each behind its length in four bytes. Raises InvalidRequest."""
    if len(raw) < count * _LENGTH.size:
        raise InvalidRequest(
            f"{field} has {len(raw)} bytes; the lengths of {count} strings alone take "
            f"{count * _LENGTH.size}"
        )
    texts, at = [], 0
    for index in range(count):
        begins = at + _LENGTH.size
        at = begins + (_LENGTH.unpack_from(raw, at)[0] if begins <= len(raw) else 0)
        if at > len(raw) or begins > len(raw):
            raise InvalidRequest(f"{field} ends inside string {index} of {count}")
        texts.append(text_of(f"{field}[{index}]", raw[begins:at]))
    if at != len(raw):
        raise InvalidRequest(f"{field} has {len(raw) - at} bytes behind its {count} strings")
    return texts


def text_of(field: str, raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidRequest(f"{field} is not UTF-8") from None


def _texts(field: str, values: list[str]) -> Array:
    padded = len(values) * max(map(len, values))
    if padded > MAX_PADDED_CHARS:
        raise InvalidRequest(
            f"{field} has {len(values)} strings, which take {padded} characters when all are as "
            f"long as the longest; at most {MAX_PADDED_CHARS} are taken"
        )
    if any("\0" in value for value in values):
        raise InvalidRequest(f"{field} holds the character U+0000; take it out")
    return np.array(values, DATATYPES["BYTES"])


def bytes_of_array(array: Array) -> bytes:
    """Raw little-endian values; strings each behind its length."""
    if array.dtype.kind in "OU":
        return bytes_of_texts(array.ravel().tolist())
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def bytes_of_texts(texts: Sequence[str]) -> bytes:
    encoded = [text.encode("utf-8") for text in texts]
    return b"".join(part for text in encoded for part in (_LENGTH.pack(len(text)), text))


def values_of_array(field: str, array: Array) -> list[Any]:
    """Values for JSON, row by row. Raises InvalidRequest for what it cannot hold."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InvalidRequest(
            f"{field} has NaN or Infinity for these inputs, which JSON cannot hold"
        )
    values: list[Any] = array.ravel().tolist()
    return values


def check_output_numbers(numbers: int) -> None:
    """Raises InvalidRequest for more than a JSON answer shall hold."""
    if numbers > MAX_OUTPUT_NUMBERS:
        raise InvalidRequest(
            f"the outputs have {numbers} numbers, at most {MAX_OUTPUT_NUMBERS} are returned as "
            "JSON; send less at once, name fewer outputs, or ask for binary data"
        )
