"""Between gRPC's messages and plain calls: typed contents or raw bytes in, raw bytes out."""

from typing import Any

import numpy as np

from app.api import open_inference_pb2 as messages
from app.core.errors import InvalidRequest
from app.core.tensor_bytes import text_of
from app.schemas.request import MAX_NAME_CHARS, MAX_TENSORS, are_parameters
from app.services.open_inference import InferCall, InferReply
from app.services.open_inference_texts import Tensor, raw_of

_CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def call_of(request: Any, max_values: int) -> InferCall:
    """request: a ModelInferRequest. Raises InvalidRequest."""
    names = [each.name for each in request.inputs]
    outputs = tuple(each.name for each in request.outputs)
    for what, given in (("inputs", names), ("outputs", outputs)):
        if len(given) > MAX_TENSORS or len(set(given)) < len(given):
            raise InvalidRequest(f"{what} takes at most {MAX_TENSORS} tensors of different names")
        if any(not 1 <= len(name) <= MAX_NAME_CHARS for name in given):
            raise InvalidRequest(f"{what} has a name that is not of 1 to {MAX_NAME_CHARS} letters")
    for output in request.outputs:
        for name in output.parameters:
            if name not in ("binary_data", "content_type"):
                raise InvalidRequest(
                    f"outputs.{output.name}.parameters.{name[:64]} is not supported"
                )
    for each in request.inputs:
        for name in each.parameters:
            if name not in ("binary_data_size", "content_type"):
                raise InvalidRequest(f"inputs.{each.name}.parameters.{name[:64]} is not supported")
    parameters = {name: value_of(value) for name, value in request.parameters.items()}
    parameters.pop("binary_data_output", None)  # all outputs are raw bytes here
    return InferCall(
        request.model_name,
        request.model_version,
        _tensors(request, max_values),
        outputs,
        _checked(parameters),
    )


def _checked(parameters: dict[str, Any]) -> dict[str, Any]:
    try:
        return are_parameters(parameters)
    except ValueError as problem:
        raise InvalidRequest(f"parameters {problem}") from None


def value_of(parameter: Any) -> Any:
    kind = parameter.WhichOneof("parameter_choice")
    return None if kind is None else getattr(parameter, kind)


def _tensors(request: Any, max_values: int) -> tuple[Tensor, ...]:
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidRequest(
            f"raw_input_contents has {len(raw)} entries for {len(request.inputs)} inputs"
        )
    if raw:
        return tuple(
            Tensor(each.name, each.datatype, tuple(each.shape), data)
            for each, data in zip(request.inputs, raw, strict=True)
        )
    total = sum(len(_contents(each)) for each in request.inputs)
    if total > max_values:
        raise InvalidRequest(
            f"the inputs have {total} values, at most {max_values} are taken "
            "(MAX_TENSOR_VALUES); send less at once, or numbers as raw bytes"
        )
    return tuple(
        Tensor(each.name, each.datatype, tuple(each.shape), _data(each)) for each in request.inputs
    )


def _contents(tensor: Any) -> Any:
    field = _CONTENTS.get(tensor.datatype)
    if field is None:
        known = ", ".join(_CONTENTS)
        raise InvalidRequest(
            f"inputs.{tensor.name}.datatype is {tensor.datatype[:16]!r}; contents hold: {known}; "
            "FP16 goes into raw_input_contents"
        )
    return getattr(tensor.contents, field)


def _data(tensor: Any) -> bytes | list[Any]:
    contents = _contents(tensor)
    field = f"inputs.{tensor.name}.contents"
    if tensor.datatype == "BYTES":
        return [text_of(f"{field}[{index}]", raw) for index, raw in enumerate(contents)]
    if tensor.datatype in ("FP32", "FP64"):  # raw, because they may hold NaN
        return np.array(contents, "<f4" if tensor.datatype == "FP32" else "<f8").tobytes()
    return list(contents)


def response_of(reply: InferReply, request_id: str) -> Any:
    """A ModelInferResponse."""
    return messages.ModelInferResponse(
        model_name=reply.model,
        model_version=reply.version,
        id=request_id,
        outputs=[
            messages.ModelInferResponse.InferOutputTensor(
                name=tensor.name, datatype=tensor.datatype, shape=tensor.shape
            )
            for tensor in reply.outputs
        ],
        raw_output_contents=[raw_of(tensor) for tensor in reply.outputs],
    )
