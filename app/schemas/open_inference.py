"""What callers of the Open Inference Protocol's REST routes send and get.

Requests are strict, as everywhere: the protocol's own fields, and no others. Answers are shown, not
validated; tests do that.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from app.core.errors import InvalidRequest
from app.schemas.problems import refusal
from app.schemas.request import MAX_NAME_CHARS, MAX_TENSORS, are_parameters

Parameters = Annotated[dict[str, Any], AfterValidator(are_parameters)]
TensorName = Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS)]
Body = TypeVar("Body", bound=BaseModel)
_SENTIMENT: dict[str, Any] = {
    "name": "text",
    "shape": [1],
    "datatype": "BYTES",
    "data": ["I love it."],
}
_PARAMETERS = (
    "Of the model's task, as `/models` lists them; `priority`, `timeout` (microseconds) and "
)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=())


class V2Input(_Strict):
    """One tensor of a request. Its values are in `data`, or, as the binary tensor data extension
    has it, behind the JSON; then `binary_data_size` is among its parameters."""

    name: TensorName = Field(description="As the model's metadata has it.", examples=["text"])
    shape: list[int] = Field(
        description="The first dimension counts independent inputs.", examples=[[1]]
    )
    datatype: str = Field(
        max_length=16,
        description="BOOL, UINT8 to UINT64, INT8 to INT64, FP16, FP32, FP64 or BYTES.",
        examples=["BYTES"],
    )
    parameters: Parameters = Field(
        default_factory=dict,
        description="`binary_data_size`: how many bytes behind the JSON are this tensor's.",
        examples=[{"binary_data_size": 14}],
    )
    data: list[Any] | None = Field(
        default=None,
        description="Values row by row, or nested lists; BYTES as strings.",
        examples=[["I love it."]],
    )


class V2RequestedOutput(_Strict):
    """One output that is wanted."""

    name: TensorName = Field(description="As the model's metadata has it.", examples=["label"])
    parameters: Parameters = Field(
        default_factory=dict,
        description="`binary_data`: whether it comes as raw bytes behind the JSON.",
        examples=[{"binary_data": True}],
    )


class V2InferBody(_Strict):
    """An inference request."""

    id: str | None = Field(
        default=None,
        max_length=MAX_NAME_CHARS,
        description="Yours; comes back.",
        examples=["a-1"],
    )
    parameters: Parameters = Field(
        default_factory=dict,
        description=_PARAMETERS + "`binary_data_output`.",
        examples=[{"truncate": True, "priority": "interactive"}],
    )
    inputs: list[V2Input] = Field(
        min_length=1,
        max_length=MAX_TENSORS,
        description="Every tensor that the model takes.",
        examples=[[_SENTIMENT]],
    )
    outputs: list[V2RequestedOutput] = Field(
        default_factory=list,
        max_length=MAX_TENSORS,
        description="Those that are wanted; none named: all.",
        examples=[[{"name": "label"}]],
    )


class V2IndexBody(_Strict):
    """What to list."""

    ready: bool = Field(default=False, description="Only what is ready.", examples=[True])


class V2ControlBody(_Strict):
    """An order to load or unload a model. May be left out."""

    parameters: Parameters = Field(
        default_factory=dict,
        description="`version`: this one alone, in place of all of the model. Nothing else is "
        "supported, but for `unload_dependents: false`.",
        examples=[{"version": "v1"}],
    )


class V2IndexEntry(BaseModel):
    """A version, and how it is."""

    name: str = Field(description="Of the model.", examples=["sentiment"])
    version: str = Field(description="Its version.", examples=["v1"])
    state: Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"] = Field(
        description="In the protocol's words.", examples=["READY"]
    )
    reason: str = Field(description="Why, where it is not ready.", examples=["unloaded"])


class V2Output(BaseModel):
    """One tensor of an answer."""

    name: str = Field(description="Of the output.", examples=["label"])
    datatype: str = Field(description="As in requests.", examples=["BYTES"])
    shape: list[int] = Field(description="The first dimension is the inputs'.", examples=[[1]])
    parameters: dict[str, Any] | None = Field(
        default=None, description="Of one in raw bytes.", examples=[{"binary_data_size": 12}]
    )
    data: list[Any] | None = Field(
        default=None, description="Values, row by row.", examples=[["positive"]]
    )


class V2InferAnswer(BaseModel):
    """An inference response. Raw bytes, where asked for, follow the JSON; the header
    `Inference-Header-Content-Length` tells its length."""

    id: str | None = Field(default=None, description="The request's.", examples=["a-1"])
    model_name: str = Field(description="Who answered.", examples=["sentiment"])
    model_version: str = Field(description="In which version.", examples=["v1"])
    outputs: list[V2Output] = Field(
        description="In the model's order, or the request's.",
        examples=[[{"name": "label", "datatype": "BYTES", "shape": [1], "data": ["positive"]}]],
    )


class V2Server(BaseModel):
    """Who serves."""

    name: str = Field(description="Of this server.", examples=["ai-inference-backend"])
    version: str = Field(description="Of this server.", examples=["0.1.0"])
    extensions: list[str] = Field(
        description="Of the protocol.", examples=[["binary_tensor_data", "model_repository"]]
    )


class V2Live(BaseModel):
    """Whether the server lives."""

    live: bool = Field(description="Always true here.", examples=[True])


class V2Ready(BaseModel):
    """Whether to send requests."""

    ready: bool = Field(description="Same as the status code.", examples=[True])
    name: str | None = Field(default=None, description="Of the model.", examples=["sentiment"])


class V2Tensor(BaseModel):
    """What a model takes or gives."""

    name: str = Field(description="Of the tensor.", examples=["text"])
    datatype: str = Field(description="As in requests.", examples=["BYTES"])
    shape: list[int] = Field(description="-1: any size.", examples=[[-1]])


class V2Model(BaseModel):
    """What a model takes and gives."""

    name: str = Field(description="Of the model.", examples=["sentiment"])
    versions: list[str] = Field(description="All of it.", examples=[["v1"]])
    platform: str = Field(description="The runtime.", examples=["openvino_encoder"])
    inputs: list[V2Tensor] = Field(
        description="All are required.",
        examples=[[{"name": "text", "datatype": "BYTES", "shape": [-1]}]],
    )
    outputs: list[V2Tensor] = Field(
        description="What every request gets.",
        examples=[[{"name": "label", "datatype": "BYTES", "shape": [-1]}]],
    )


class V2Error(BaseModel):
    """Why not."""

    error: str = Field(
        description="For people.", examples=["inputs.text is missing; send BYTES of shape [n]"]
    )


@dataclass(frozen=True, slots=True)
class BinarySizes:
    """How many bytes behind the JSON each input has, by its place; None: it has `data`."""

    sizes: tuple[int | None, ...]

    @property
    def total(self) -> int:
        return sum(size or 0 for size in self.sizes)


def parse_v2(value: Any) -> V2InferBody:
    """Raises InvalidRequest that names each wrong field."""
    body = parse(V2InferBody, value)
    for what, named in (("inputs", body.inputs), ("outputs", body.outputs)):
        names = [each.name for each in named]
        if len(set(names)) < len(names):
            raise InvalidRequest(f"{what} has a name twice")
    return body


def parse(body: type[Body], value: Any) -> Body:
    """Raises InvalidRequest that names each wrong field."""
    try:
        return body.model_validate(value)
    except ValidationError as error:
        raise refusal(error) from None


def binary_sizes(body: V2InferBody) -> BinarySizes:
    """Raises InvalidRequest where an input has both forms of data, or none."""
    sizes = []
    for tensor in body.inputs:
        field = f"inputs.{tensor.name}"
        size = tensor.parameters.get("binary_data_size")
        unknown = set(tensor.parameters) - {"binary_data_size", "content_type"}
        if unknown:
            raise InvalidRequest(f"{field}.parameters.{min(unknown)[:64]} is not supported")
        if (size is None) == (tensor.data is None):
            problem = "has neither data nor" if size is None else "has data and"
            raise InvalidRequest(f"{field} {problem} binary_data_size; send one of both")
        if size is not None and (type(size) is not int or size < 0):
            raise InvalidRequest(f"{field}.parameters.binary_data_size must be a number of bytes")
        sizes.append(size)
    return BinarySizes(tuple(sizes))
