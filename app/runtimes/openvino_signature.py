"""What an OpenVINO graph takes and gives, in our words."""

from collections.abc import Sequence

import openvino as ov

from app.core.errors import CannotLoad
from app.core.tensors import DATATYPE_NAMES, Signature, TensorSpec


def signature_of(model: ov.Model) -> Signature:
    """Raises CannotLoad for a port of a type that JSON cannot hold, or of any rank."""
    return Signature(_specs(model.inputs, "input"), _specs(model.outputs, "output"))


def _specs(ports: Sequence[ov.Output], what: str) -> tuple[TensorSpec, ...]:
    return tuple(_spec(port, f"{what}_{index}") for index, port in enumerate(ports))


def _spec(port: ov.Output, default_name: str) -> TensorSpec:
    names: set[str] = port.get_names()
    name = min(names, default=default_name)
    kind = port.get_element_type()
    try:
        datatype = DATATYPE_NAMES[kind.to_dtype()]
    except (KeyError, RuntimeError):
        raise CannotLoad(f"{name} is of type {kind.get_type_name()}, which is not served") from None
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:
        raise CannotLoad(f"{name} has no fixed number of dimensions")
    return TensorSpec(
        name, datatype, tuple(None if size.is_dynamic else size.get_length() for size in shape)
    )
