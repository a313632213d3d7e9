"""The Open Inference Protocol's bodies: JSON, alone or with raw tensors behind it."""

import re
from typing import Any

import msgspec
import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from app.api.body import decode, read_body
from app.core.config import Settings
from app.core.errors import CallerError, InvalidJson, InvalidRequest, UnsupportedMediaType
from app.core.tensor_bytes import check_output_numbers, texts_of_bytes, values_of_array
from app.core.tensors import DATATYPES
from app.schemas.open_inference import V2InferBody, binary_sizes, parse_v2
from app.services.open_inference import InferCall, InferReply
from app.services.open_inference_texts import Tensor, raw_of

JSON_LENGTH = "Inference-Header-Content-Length"
_VALUES_PER_REQUEST = 5000  # fields of all tensors, and parameters, with room to spare
# What clients of the protocol send; others come from a browser's form, without being asked for.
_TYPES = frozenset({"", "application/json", "application/octet-stream", "application/vnd.api+json"})
_DIGITS = re.compile(r"[0-9]{1,10}", re.ASCII)
_encode = msgspec.json.Encoder().encode


async def read_call(
    request: Request, settings: Settings, model: str, version: str
) -> tuple[InferCall, V2InferBody]:
    """Raises a CallerError that says what is wrong with it."""
    _check_headers(request)
    body = await read_body(request, settings.max_body_bytes)
    length = _json_length(request, len(body))
    parsed = parse_v2(decode(body[:length], _VALUES_PER_REQUEST + settings.max_tensor_values))
    parameters = dict(parsed.parameters)
    parameters.pop("binary_data_output", None)
    inputs = _tensors(parsed, memoryview(body)[length:])
    outputs = tuple(output.name for output in parsed.outputs)
    return InferCall(model, version, inputs, outputs, parameters), parsed


async def read_small_json(request: Request, max_bytes: int) -> Any:
    """A body that may be left out."""
    _check_headers(request)
    body = await read_body(request, max_bytes)
    return decode(body, _VALUES_PER_REQUEST) if body.strip() else {}


def _check_headers(request: Request) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in _TYPES:
        raise UnsupportedMediaType(
            f"Content-Type is {media_type[:100]!r}; send application/json, or "
            f"application/octet-stream with {JSON_LENGTH}."
        )
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity":
        raise UnsupportedMediaType(
            f"Content-Encoding is {encoding[:100]!r}; send bodies as they are."
        )


def _json_length(request: Request, size: int) -> int:
    given = request.headers.getlist(JSON_LENGTH)
    if not given:
        return size
    if len(given) > 1 or not _DIGITS.fullmatch(given[0]) or int(given[0]) > size:
        raise CallerError(
            f"{JSON_LENGTH} is {', '.join(given)[:100]!r}; send the length of the JSON in bytes, "
            f"at most the body's, which is {size}."
        )
    return int(given[0])


def _tensors(parsed: V2InferBody, behind: memoryview) -> tuple[Tensor, ...]:
    sizes = binary_sizes(parsed)
    if sizes.total != len(behind):
        raise InvalidJson(
            f"{len(behind)} bytes follow the JSON, and the inputs' binary_data_size add up to "
            f"{sizes.total}."
        )
    tensors, at = [], 0
    for tensor, size in zip(parsed.inputs, sizes.sizes, strict=True):
        data: bytes | list[Any] = tensor.data or []
        if size is not None:
            data = bytes(behind[at : at + size])
            at += size
        tensors.append(Tensor(tensor.name, tensor.datatype, tuple(tensor.shape), data))
    return tuple(tensors)


def check_wanted(parsed: V2InferBody) -> None:
    """Raises InvalidRequest for extensions that are not ours."""
    for output in parsed.outputs:
        unknown = set(output.parameters) - {"binary_data", "content_type"}
        if unknown:
            name = f"outputs.{output.name}.parameters.{min(unknown)[:64]}"
            raise InvalidRequest(f"{name} is not supported")
        _is_binary(output.parameters, "binary_data", False, f"outputs.{output.name}.parameters")
    _is_binary(parsed.parameters, "binary_data_output", False, "parameters")


def _is_binary(parameters: dict[str, Any], name: str, default: bool, field: str) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise InvalidRequest(f"{field}.{name} must be a boolean")
    return value


def written(reply: InferReply, parsed: V2InferBody) -> Response:
    """Raises InvalidRequest for what JSON cannot hold."""
    default = _is_binary(parsed.parameters, "binary_data_output", False, "parameters")
    binary = {
        output.name: _is_binary(output.parameters, "binary_data", default, output.name)
        for output in parsed.outputs
    }
    as_bytes = [binary.get(tensor.name, default) for tensor in reply.outputs]
    check_output_numbers(
        sum(tensor.size for tensor, raw in zip(reply.outputs, as_bytes, strict=True) if not raw)
    )
    shown, behind = [], []
    for tensor, is_raw in zip(reply.outputs, as_bytes, strict=True):
        about = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if is_raw:
            raw = raw_of(tensor)
            behind.append(raw)
            shown.append({**about, "parameters": {"binary_data_size": len(raw)}})
        else:
            shown.append({**about, "data": values_of(tensor)})
    answer = {"model_name": reply.model, "model_version": reply.version, "outputs": shown}
    head = _encode({"id": parsed.id, **answer} if parsed.id is not None else answer)
    if not behind:
        return Response(head, media_type="application/json")
    return Response(
        b"".join([head, *behind]),
        media_type="application/octet-stream",
        headers={JSON_LENGTH: str(len(head))},
    )


def values_of(tensor: Tensor) -> list[Any]:
    """For JSON."""
    if not isinstance(tensor.data, bytes):
        return tensor.data
    field = f"outputs.{tensor.name}"
    if tensor.datatype == "BYTES":
        return texts_of_bytes(field, tensor.data, tensor.size)
    dtype = DATATYPES[tensor.datatype].newbyteorder("<")
    return values_of_array(field, np.frombuffer(tensor.data, dtype))
