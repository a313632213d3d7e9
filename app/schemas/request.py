"""What callers send. Strict: no coercion, no unknown field, every size bounded.

Bounds that are settings come with the validation context; the rest of the server sees plain
values only.
"""

from dataclasses import dataclass
from typing import Annotated, Any, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
)
from pydantic_core import PydanticCustomError

from app.core.errors import InvalidRequest
from app.core.texts import problem_of_text
from app.schemas.problems import InvalidFields, refusal

MAX_NAME_CHARS = 128
MAX_PARAMETERS = 64
MAX_TENSORS = 64
_LARGEST_INTEGER = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings that bound a request."""

    max_text_chars: int
    max_request_items: int


def _is_usable_text(text: str, info: ValidationInfo) -> str:
    limits = cast(Limits, info.context)
    if (problem := problem_of_text(text, limits.max_text_chars)) is not None:
        raise _wrong(problem)
    return text


def _is_name(name: str | None) -> str | None:
    if name is not None and not 1 <= len(name) <= MAX_NAME_CHARS:
        raise _wrong(f"has {len(name)} characters, 1 to {MAX_NAME_CHARS} are taken")
    return name


def are_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    if len(parameters) > MAX_PARAMETERS:
        raise _wrong(f"has {len(parameters)} entries, at most {MAX_PARAMETERS} are taken")
    for name, value in parameters.items():
        if isinstance(value, int) and abs(value) > _LARGEST_INTEGER:
            raise _wrong(f"has an integer beyond 64 bits in {name[:MAX_NAME_CHARS]!r}")
    return parameters


def _are_inputs(inputs: dict[str, Any]) -> dict[str, Any]:
    """Their form; names, types and shapes are checked against the model's own."""
    if not 1 <= len(inputs) <= MAX_TENSORS:
        raise _wrong(f"has {len(inputs)} tensors, 1 to {MAX_TENSORS} are taken")
    for name, tensor in inputs.items():
        if len(name) > MAX_NAME_CHARS:
            raise _wrong(f"has a name of {len(name)} characters, at most {MAX_NAME_CHARS}")
        if not isinstance(tensor, dict | list):
            raise _wrong(f"has {name!r}, which must be an object with data, or a list")
    return inputs


def _wrong(problem: str) -> PydanticCustomError:
    return PydanticCustomError("bound", "{problem}", {"problem": problem})


Name = Annotated[str | None, AfterValidator(_is_name)]

_IRIS: dict[str, Any] = {"datatype": "FP32", "shape": [1, 4], "data": [5.1, 3.5, 1.4, 0.2]}


class InferBody(BaseModel):
    """One text to infer, or, for versions whose task is `tensors`, one set of named tensors."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        json_schema_extra={
            "examples": [
                {
                    "text": "I love this AI inference backend! It works perfectly.",
                    "model": "sentiment",
                    "version": "v1",
                },
                {
                    "text": "How do I reset my password?",
                    "model": "reranker",
                    "parameters": {
                        "documents": ["Open Settings, then Security.", "We ship on Mondays."],
                        "return_documents": True,
                    },
                },
                {"inputs": {"features": _IRIS}, "model": "iris"},
                {
                    "text": "The old bridge",
                    "model": "generator",
                    "parameters": {"max_new_tokens": 20},
                    "stream": True,
                },
            ],
            "oneOf": [{"required": ["text"]}, {"required": ["inputs"]}],
        },
    )

    text: Annotated[str, AfterValidator(_is_usable_text)] = Field(
        default_factory=str,  # `parse_infer` sees to it that one of both was sent
        description="The input. Not blank, and without U+0000. What a reranker is asked.",
        examples=["I love this AI inference backend! It works perfectly."],
        json_schema_extra={"minLength": 1},
    )
    inputs: Annotated[dict[str, Any], AfterValidator(_are_inputs)] = Field(
        default_factory=dict,
        description="In place of text: tensors by name, with the Open Inference Protocol's "
        "datatypes (BOOL, UINT8 to UINT64, INT8 to INT64, FP16, FP32, FP64) and row-major or "
        "nested data; or the nested list alone, which takes the model's own type. `/models` shows "
        "the names, types and shapes of a version under `signature`. The result has the same form.",
        examples=[{"features": _IRIS}, {"features": [[5.1, 3.5, 1.4, 0.2]]}],
        json_schema_extra={"minProperties": 1, "maxProperties": MAX_TENSORS},
    )
    model: Name = Field(
        default=None,
        description="Who shall infer it, as `/models` lists them; null: `DEFAULT_MODEL`.",
        examples=["sentiment"],
        json_schema_extra={"maxLength": MAX_NAME_CHARS},
    )
    version: Name = Field(
        default=None,
        description="Which version of the model; null: its default version.",
        examples=["v1"],
        json_schema_extra={"maxLength": MAX_NAME_CHARS},
    )
    parameters: Annotated[dict[str, Any], AfterValidator(are_parameters)] = Field(
        default_factory=dict,
        description="Options of the version. `/models` shows the type, bounds and default of each.",
        examples=[{"max_length": 50}],
        json_schema_extra={"maxProperties": MAX_PARAMETERS},
    )
    stream: bool = Field(
        default=False,
        description="Send the text while it is written, as server-sent events. Not for batches.",
        examples=[False],
    )


class BatchBody(BaseModel):
    """Many texts to infer, each for a model of its own choice."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    requests: list[Any] = Field(
        description="The entries, answered in this order. An entry that is wrong fails alone.",
        json_schema_extra={"minItems": 1},
        examples=[
            [
                {"text": "First text to process", "model": "summarizer"},
                {"text": "Second text to process", "model": "sentiment"},
            ]
        ],
    )


def parse_infer(value: Any, limits: Limits, *, where: str = "") -> InferBody:
    """Raises InvalidRequest that names each wrong field."""
    try:
        body = InferBody.model_validate(value, context=limits)
    except ValidationError as error:
        raise refusal(error, where) from None
    sent = body.model_fields_set & {"text", "inputs"}
    if len(sent) != 1:
        problem = "and inputs exclude each other; send one" if sent else "is missing"
        raise InvalidFields([{"field": f"{where}.text" if where else "text", "problem": problem}])
    if where and body.stream:
        problem = "is for single requests; send this entry to POST /infer"
        raise InvalidFields([{"field": f"{where}.stream", "problem": problem}])
    return body


def parse_batch(value: Any, limits: Limits) -> list[Any]:
    """The entries, not yet checked. Raises InvalidRequest when the frame around them is wrong."""
    try:
        entries = BatchBody.model_validate(value).requests
    except ValidationError as error:
        raise refusal(error) from None
    if not 1 <= len(entries) <= limits.max_request_items:
        raise InvalidRequest(
            f"requests has {len(entries)} entries, 1 to {limits.max_request_items} are taken; "
            "split the batch, or raise MAX_REQUEST_ITEMS."
        )
    return entries
