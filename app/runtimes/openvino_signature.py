"""What an OpenVINO graph takes and gives, in our words."""

from collections.abc import Sequence

import openvino as ov

from app.core.errors import CannotLoad
from app.core.tensors import Signature, TensorSpec

# By name: numpy's counterpart would do for float16 and for bfloat16, whose bits mean other numbers.
_DATATYPES = {
    "boolean": "BOOL",
    "string": "BYTES",
    **{f"f{bits}": f"FP{bits}" for bits in (16, 32, 64)},
    **{f"i{bits}": f"INT{bits}" for bits in (8, 16, 32, 64)},
    **{f"u{bits}": f"UINT{bits}" for bits in (8, 16, 32, 64)},
}


def signature_of(model: ov.Model) -> Signature:
    """Raises CannotLoad for a port of a type without a name in the protocol, or of any rank."""
    return Signature(_specs(model.inputs, "input"), _specs(model.outputs, "output"))


def _specs(ports: Sequence[ov.Output], what: str) -> tuple[TensorSpec, ...]:
    return tuple(_spec(port, f"{what}_{index}") for index, port in enumerate(ports))


def _spec(port: ov.Output, default_name: str) -> TensorSpec:
    names: set[str] = port.get_names()
    name = min(names, default=default_name)
    kind = port.get_element_type()
    type_name = kind.get_type_name()
    datatype = _DATATYPES.get(type_name)
    if datatype is None:
        raise CannotLoad(f"{name} is of type {type_name}, which is not served")
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        raise CannotLoad(f"{name} has no fixed number of dimensions")
    return TensorSpec(
        name, datatype, tuple(None if size.is_dynamic else size.get_length() for size in shape)
    )
